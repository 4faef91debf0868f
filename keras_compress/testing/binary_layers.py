"""Files of one layer of few bits, with settings drawn at random: what kernels for binary nets are tried on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from keras_compress.tflite.flatbuffer import Graph, write_model

Array = NDArray[Any]
_ACTIVATIONS = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")
# Weights of an output, in magnitudes.
VALUES = {"signs": (-1, 1), "ternary": (-1, 0, 1), "two_bits": (-3, -1, 1, 3)}
# Upper ends of activations that have one.
_ENDS = {"RELU6": 6.0, "RELU_N1_TO_1": 1.0}


@dataclass(frozen=True)
class BinaryLayer:
    """Settings of a layer whose inputs are signs or levels of one or two bits, and whose weights have few values.

    Attributes:
        kind: `"conv"` or `"dense"`.
        batch, height, width: Of the input; of a dense layer batch alone.
        inputs, outputs: Channels of all groups.
        groups: Of a convolution.
        kernel, strides, dilation: `(rows, columns)`.
        same: Zeros around the input, as `padding="same"` has them.
        magnitude: The integer c that weights are multiples of.
        weights: In magnitudes, a key of `VALUES`.
        levels: Bits of the inputs, 1 or 2, made by an activation that leaves so many integers; 0 for signs.
        dead: Whether some outputs have weights of 0.
        bias: Whether there is a bias.
        per_channel: Scales for each output, or one.
        activation: Fused activation.
        zero_point: Of the output.
        tie: Whether the upper end of `activation` lies halfway between two integers of the output.
        signs: Where the signs come from: `"given"`, the input itself; `"taken"`, a 1x1 depthwise convolution with
            thresholds; `"layer"`, another binary layer behind a `"taken"` one. Levels are never given.
        weight_bits: 8, or 4 for packed weights.
        seed: Of the values.
    """

    kind: str = "conv"
    batch: int = 1
    height: int = 8
    width: int = 8
    inputs: int = 16
    outputs: int = 16
    groups: int = 1
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    same: bool = True
    magnitude: int = 64
    weights: str = "signs"
    levels: int = 0
    dead: bool = False
    bias: bool = True
    per_channel: bool = True
    activation: str = "NONE"
    zero_point: int = 0
    tie: bool = False
    signs: str = "given"
    weight_bits: int = 8
    seed: int = 0

    @classmethod
    def drawn(cls, seed: int) -> BinaryLayer:
        """Settings that follow from the seed alone."""
        draw = np.random.default_rng(seed)
        dense, groups = bool(draw.random() < 0.25), int(draw.choice([1, 1, 1, 1, 2, 3]))
        groups = 1 if dense else groups
        spread, packed = draw.random() < 0.2, dense and bool(draw.random() < 0.3)
        kernel = (int(draw.integers(1, 5)), int(draw.integers(1, 5)))
        activation = str(draw.choice(_ACTIVATIONS))
        lowest = activation != "RELU_N1_TO_1"
        made = cls(
            kind="dense" if dense else "conv",
            batch=int(draw.choice([1, 1, 2, 3])),
            height=int(draw.integers(4, 12)),
            width=int(draw.integers(4, 12)),
            inputs=groups * int(draw.choice([1, 3, 8, 16, 31, 32, 33, 64, 70, 130])),
            outputs=groups * int(draw.choice([1, 2, 7, 16, 17, 32, 33, 50, 64])),
            groups=groups,
            kernel=(1, 1) if dense else kernel,
            strides=(1, 1) if dense or spread else (int(draw.integers(1, 4)), int(draw.integers(1, 4))),
            dilation=(int(draw.integers(1, 4)), int(draw.integers(1, 4))) if spread and not dense else (1, 1),
            same=bool(draw.random() < 0.6) or spread,
            magnitude=int(draw.choice([1, 2, 7] if packed else [1, 2, 64, 127])),
            weight_bits=4 if packed else 8,
            dead=bool(draw.random() < 0.2),
            bias=bool(draw.random() < 0.8) or not dense,  # LiteRT's convolutions want one
            per_channel=bool(draw.random() < 0.7),
            activation=activation,
            zero_point=int(draw.integers(-128, 128)) if lowest else 0,
            signs=str(draw.choice(["given", "taken", "taken", "layer"])),
            tie=activation in _ENDS and bool(draw.random() < 0.5),
            seed=seed,
        )
        kind, levels = str(draw.choice(["signs", *VALUES])), int(draw.choice([0, 0, 1, 2]))
        largest = made.magnitude if kind != "two_bits" else min(made.magnitude, 2 if packed else 42)
        signs = "taken" if levels and made.signs == "given" else made.signs
        return replace(made, weights=kind, levels=levels, magnitude=largest, signs=signs)

    def input_shape(self) -> tuple[int, ...]:
        """Shape of the file's input."""
        return (self.batch, self.inputs) if self.kind == "dense" else (self.batch, self.height, self.width, self.inputs)

    def values(self, seed: int = 0) -> Array:
        """An int8 input: signs, or any integers where signs are taken of them."""
        draw = np.random.default_rng((self.seed, seed))
        if self.signs == "given":
            return draw.choice(np.array([-1, 1], np.int8), self.input_shape())
        return draw.integers(-128, 128, self.input_shape()).astype(np.int8)

    def content(self) -> bytes:
        """The `.tflite` file."""
        return _File(self).content()


class _File:
    def __init__(self, layer: BinaryLayer) -> None:
        self._layer = layer
        self._draw = np.random.default_rng((layer.seed, 1))
        model, subgraph = schema.ModelT(), schema.SubGraphT()
        model.version, model.operatorCodes, model.buffers = 3, [], [schema.BufferT()]
        subgraph.tensors, subgraph.operators, subgraph.inputs, subgraph.outputs = [], [], [], []
        model.subgraphs = [subgraph]
        self._graph = Graph(model)

    def content(self) -> bytes:
        layer, graph = self._layer, self._graph
        scale, zero_point = (1.0, 0) if layer.signs == "given" else (0.05, int(self._draw.integers(-20, 20)))
        given = self._tensor("given", layer.input_shape(), scale, zero_point)
        tensor = given
        if layer.signs != "given":
            tensor = self._levels(tensor) if layer.levels else self._sign(tensor)
        if layer.signs == "layer":
            tensor = self._binary_levels(tensor) if layer.levels else self._binary_sign(tensor)
        made = self._binary(tensor)
        graph.set_interface([given], [made])
        return write_model(graph.model)

    def _tensor(self, name: str, shape: tuple[int, ...], scale: float, zero_point: int) -> int:
        made = self._graph.add_tensor(name, shape, "int8")
        self._graph.set_quantization(made, np.array([scale], np.float32), zero_point)
        return made

    def _constant(self, name: str, values: Array, scale: Array, dimension: int = 0) -> int:
        made = self._graph.add_constant(name, values)
        self._graph.set_quantization(made, np.asarray(scale, np.float32), 0, dimension)
        return made

    def _operator(self, kind: str, inputs: list[int], output: int, options: Any, activation: str) -> None:
        options.fusedActivationFunction = getattr(schema.ActivationFunctionType, activation)
        op = self._graph.make_operator(kind, inputs, [output], options)
        self._graph.raise_version(op, {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4}[kind])
        self._graph.operators.append(op)

    def _image(self, tensor: int) -> int:
        """A dense layer's input as an image of one pixel, and back: reshapes are what converters put around signs."""
        rows, channels = self._graph.shape(tensor)[0], self._graph.shape(tensor)[-1]
        image = len(self._graph.shape(tensor)) == 2
        return self._reshape(tensor, (rows, 1, 1, channels) if image else (rows, channels))

    def _reshape(self, tensor: int, shape: tuple[int, ...]) -> int:
        scale, zero_point = self._graph.quantization(tensor) or (np.ones(1, np.float32), 0)
        made = self._tensor(f"reshaped{tensor}", shape, float(scale[0]), zero_point)
        options = schema.ReshapeOptionsT()
        options.newShape = list(shape)
        to = self._graph.add_constant(f"shape{tensor}", np.array(shape, np.int32))
        self._graph.operators.append(self._graph.make_operator("RESHAPE", [tensor, to], [made], options))
        return made

    def _sign(self, tensor: int) -> int:
        """Signs of a tensor, by one threshold a channel; some the other way round, some the same for all integers."""
        dense = self._layer.kind == "dense"
        tensor = self._image(tensor) if dense else tensor
        channels = self._graph.shape(tensor)[-1]
        weights = self._draw.choice(np.array([-2, 2], np.int8), (1, 1, 1, channels))
        bias = 2 * self._draw.integers(-140, 140, channels).astype(np.int32) + 1
        scale, _ = self._graph.quantization(tensor) or (np.ones(1), 0)
        operands = [
            self._constant("sign/kernel", weights, 4.0 / scale, 3),
            self._constant("sign/bias", bias, np.array([4.0])),
        ]
        made = self._tensor("sign", self._graph.shape(tensor), 1.0, 0)
        options = schema.DepthwiseConv2DOptionsT()
        options.padding, options.strideW, options.strideH, options.depthMultiplier = 1, 1, 1, 1
        options.dilationWFactor = options.dilationHFactor = 1
        self._operator("DEPTHWISE_CONV_2D", [tensor, *operands], made, options, "RELU_N1_TO_1")
        return self._image(made) if dense else made

    def _few(self, name: str, shape: tuple[int, ...]) -> tuple[int, str]:
        """A tensor that can hold no more integers than the layer's bits, and the activation that makes it so."""
        highest = 2**self._layer.levels - 1
        if self._layer.seed % 2:  # 6.0 is the highest level
            return self._tensor(name, shape, 6.0 / highest, int(self._draw.integers(-128, 128 - highest))), "RELU6"
        return self._tensor(name, shape, float(self._draw.uniform(0.5, 2.0)), 127 - highest), "RELU"

    def _levels(self, tensor: int) -> int:
        """Levels of a tensor: a 1x1 depthwise convolution, and what its activation and 8 bits leave."""
        dense = self._layer.kind == "dense"
        tensor = self._image(tensor) if dense else tensor
        channels = self._graph.shape(tensor)[-1]
        scale, _ = self._graph.quantization(tensor) or (np.ones(1), 0)
        made, activation = self._few("levels", self._graph.shape(tensor))
        weights = self._draw.integers(-127, 128, (1, 1, 1, channels)).astype(np.int8)
        weight_scale = np.array([0.02], np.float32)
        operands = [
            self._constant("levels/kernel", weights, weight_scale, 3),
            self._constant(
                "levels/bias", self._draw.integers(-99, 99, channels).astype(np.int32), weight_scale * scale
            ),
        ]
        options = schema.DepthwiseConv2DOptionsT()
        options.padding, options.strideW, options.strideH, options.depthMultiplier = 1, 1, 1, 1
        options.dilationWFactor = options.dilationHFactor = 1
        self._operator("DEPTHWISE_CONV_2D", [tensor, *operands], made, options, activation)
        return self._image(made) if dense else made

    def _binary_levels(self, tensor: int) -> int:
        """A 1x1 layer of few bits that makes levels of its sums."""
        channels = self._graph.shape(tensor)[-1]
        shape = (channels, channels) if self._layer.kind == "dense" else (channels, 1, 1, channels)
        weights = self._draw.choice(np.array(VALUES[self._layer.weights], np.int8), shape)
        scale, _ = self._graph.quantization(tensor) or (np.ones(1), 0)
        weight_scale = np.array([1.0 / np.sqrt(channels)], np.float32)
        bias = self._draw.integers(-channels, channels + 1, channels).astype(np.int32)
        operands = [
            self._constant("first/kernel", weights, weight_scale),
            self._constant("first/bias", bias, weight_scale * scale),
        ]
        made, activation = self._few("first", self._graph.shape(tensor))
        self._operator(*self._kind(), [tensor, *operands], made, self._options((1, 1), (1, 1), True), activation)
        return made

    def _binary_sign(self, tensor: int) -> int:
        """A 1x1 binary layer that takes the sign of its doubled sums."""
        channels = self._graph.shape(tensor)[-1]
        dense = self._layer.kind == "dense"
        shape = (channels, channels) if dense else (channels, 1, 1, channels)
        weights = self._draw.choice(np.array([-2, 2], np.int8), shape)
        bias = 2 * self._draw.integers(-channels, channels + 1, channels).astype(np.int32) + 1
        operands = [
            self._constant("first/kernel", weights, np.array([4.0])),
            self._constant("first/bias", bias, np.array([4.0])),
        ]
        made = self._tensor("first", self._graph.shape(tensor), 1.0, 0)
        self._operator(*self._kind(), [tensor, *operands], made, self._options((1, 1), (1, 1), True), "RELU_N1_TO_1")
        return made

    def _kind(self) -> tuple[str]:
        return ("FULLY_CONNECTED",) if self._layer.kind == "dense" else ("CONV_2D",)

    def _options(self, strides: tuple[int, int], dilation: tuple[int, int], same: bool) -> Any:
        if self._layer.kind == "dense":
            return schema.FullyConnectedOptionsT()
        options = schema.Conv2DOptionsT()
        options.padding = schema.Padding.SAME if same else schema.Padding.VALID
        options.strideH, options.strideW = strides
        options.dilationHFactor, options.dilationWFactor = dilation
        return options

    def _binary(self, tensor: int) -> int:
        layer = self._layer
        inputs = layer.inputs // layer.groups
        shape = (layer.outputs, inputs) if layer.kind == "dense" else (layer.outputs, *layer.kernel, inputs)
        weights = self._draw.choice(np.array(VALUES[layer.weights], np.int8), shape)
        weights = weights * np.int8(layer.magnitude)
        if layer.dead:
            weights[self._draw.random(layer.outputs) < 0.3] = 0
        sums = np.sqrt(weights[0].size) * layer.magnitude * max(1, layer.levels)
        given, _ = self._graph.quantization(tensor) or (np.ones(1), 0)
        scale = self._draw.uniform(0.3, 3.0, layer.outputs if layer.per_channel else 1) / layer.magnitude
        # Outputs that use the range, and now and then leave it.
        out_scale = float(sums * scale.mean() * given[0] * self._draw.uniform(0.2, 3.0) / 60)
        if layer.activation == "RELU_N1_TO_1":
            out_scale = min(out_scale, 1.0)
        if layer.tie:
            end = _ENDS[layer.activation]
            out_scale = end / (max(1, int(end / out_scale)) + 0.5)
        kernel = self._constant("kernel", weights, scale)
        if layer.weight_bits == 4:
            self._graph.pack_constant(kernel, 4)
        operands = [kernel]
        if layer.bias:
            bias = self._draw.normal(0.0, sums, layer.outputs).astype(np.int32)
            operands.append(self._constant("bias", bias, scale * given[0]))
        made = self._tensor("made", self._out_shape(), out_scale, layer.zero_point)
        options = self._options(layer.strides, layer.dilation, layer.same)
        self._operator(*self._kind(), [tensor, *operands], made, options, layer.activation)
        return made

    def _out_shape(self) -> tuple[int, ...]:
        layer = self._layer
        if layer.kind == "dense":
            return (layer.batch, layer.outputs)
        sizes = []
        for size, taps, stride, dilation in zip(
            (layer.height, layer.width), layer.kernel, layer.strides, layer.dilation, strict=True
        ):
            reach = 1 if layer.same else (taps - 1) * dilation + 1
            sizes.append((size - reach) // stride + 1)
        return (layer.batch, *sizes, layer.outputs)
