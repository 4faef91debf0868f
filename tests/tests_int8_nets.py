"""Small int8 `.tflite` files made by hand, for tests that need no training and no TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from keras_compress.tflite.flatbuffer import Graph, read_model, write_model


class Int8Net:
    """A chain of int8 operators, one after the other.

    Args:
        shape: Of the input, such as (1, 16, 16, 8).
        levels: The integers that weights are drawn from.
        sparsity: Share of weights that are zero.
        activations: `"int8"`, `"int16"` or `"float32"`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        levels: Sequence[int] = tuple(range(-127, 128)),
        sparsity: float = 0.0,
        activations: str = "int8",
    ) -> None:
        model = schema.ModelT()
        model.version, model.operatorCodes, model.buffers = 3, [], [schema.BufferT()]
        model.subgraphs = [schema.SubGraphT()]
        model.subgraphs[0].tensors, model.subgraphs[0].operators = [], []
        model.subgraphs[0].inputs, model.subgraphs[0].outputs = [], []
        self.graph = Graph(model)
        self._random = np.random.default_rng(0)
        self._levels, self._sparsity, self._activations = np.asarray(levels), sparsity, activations
        self.last = self._activation("input", shape)
        self.graph.set_interface([self.last], [self.last])

    def _activation(self, name: str, shape: Sequence[int]) -> int:
        tensor = self.graph.add_tensor(name, shape, self._activations)
        if self._activations != "float32":
            self.graph.set_quantization(tensor, np.array([0.05], np.float32))
        return tensor

    def _constant(self, name: str, values: NDArray[Any], scales: NDArray[np.float32], dimension: int = 0) -> int:
        tensor = self.graph.add_constant(name, values)
        self.graph.set_quantization(tensor, scales, 0, dimension)
        return tensor

    def _weights(self, name: str, shape: Sequence[int], dimension: int) -> tuple[int, int]:
        """Weight and bias, with a scale for each output channel."""
        values = self._random.choice(self._levels, shape)
        values[self._random.random(shape) < self._sparsity] = 0
        scales = np.full(shape[dimension], 0.01, np.float32)
        bias = self._random.integers(-500, 500, shape[dimension]).astype(np.int32)
        weight = self._constant(name, values.astype(np.int8), scales, dimension)
        return weight, self._constant(f"{name}_bias", bias, np.float32(0.05) * scales)

    def _append(self, kind: str, inputs: list[int], shape: Sequence[int], options: Any = None) -> Int8Net:
        name = f"{kind.lower()}_{len(self.graph.operators)}"
        output = self._activation(name, shape)
        self.graph.operators.append(self.graph.make_operator(kind, inputs, [output], options))
        self.last = output
        self.graph.set_interface(self.graph.inputs, [output])
        return self

    def convolution(self, filters: int, kernel: int, stride: int = 1) -> Int8Net:
        batch, height, width, depth = self.graph.shape(self.last)
        constants = self._weights(f"conv_{len(self.graph.operators)}", (filters, kernel, kernel, depth), 0)
        options = schema.Conv2DOptionsT()
        options.strideH = options.strideW = stride
        options.dilationHFactor = options.dilationWFactor = 1
        shape = (batch, -(-height // stride), -(-width // stride), filters)
        return self._append("CONV_2D", [self.last, *constants], shape, options)

    def depthwise(self, kernel: int, stride: int = 1) -> Int8Net:
        batch, height, width, depth = self.graph.shape(self.last)
        constants = self._weights(f"depthwise_{len(self.graph.operators)}", (1, kernel, kernel, depth), 3)
        shape = (batch, -(-height // stride), -(-width // stride), depth)
        options = schema.DepthwiseConv2DOptionsT()
        options.strideH = options.strideW = stride
        options.depthMultiplier = 1
        options.dilationHFactor = options.dilationWFactor = 1
        return self._append("DEPTHWISE_CONV_2D", [self.last, *constants], shape, options)

    def transposed(self, filters: int, kernel: int, stride: int) -> Int8Net:
        batch, height, width, depth = self.graph.shape(self.last)
        weight, bias = self._weights(f"transposed_{len(self.graph.operators)}", (filters, kernel, kernel, depth), 0)
        shape = (batch, height * stride, width * stride, filters)
        size = self.graph.add_constant("size", np.array(shape, np.int32))
        options = schema.TransposeConvOptionsT()
        options.strideH = options.strideW = stride
        return self._append("TRANSPOSE_CONV", [size, weight, self.last, bias], shape, options)

    def mean(self) -> Int8Net:
        batch, height, width, depth = self.graph.shape(self.last)
        options = schema.Pool2DOptionsT()
        options.strideH, options.strideW, options.filterHeight, options.filterWidth = height, width, height, width
        options.padding = schema.Padding.VALID
        return self._append("AVERAGE_POOL_2D", [self.last], (batch, 1, 1, depth), options)

    def dense(self, units: int) -> Int8Net:
        shape = self.graph.shape(self.last)
        constants = self._weights(f"dense_{len(self.graph.operators)}", (units, shape[-1]), 0)
        return self._append(
            "FULLY_CONNECTED", [self.last, *constants], (shape[0], units), schema.FullyConnectedOptionsT()
        )

    def content(self) -> bytes:
        """The `.tflite` file."""
        return write_model(self.graph.model)


def depthwise_net(**options: Any) -> bytes:
    """16x16x8: depthwise 3x3, 1x1 to 32, 3x3 to 64 with stride 2, mean, 10 units. 1,264,256 multiplications."""
    net = Int8Net((1, 16, 16, 8), **options)
    return net.depthwise(3).convolution(32, 1).convolution(64, 3, 2).mean().dense(10).content()


def with_decode(content: bytes) -> bytes:
    """The file with its first weights stored for `TFLM_DECODE`: a bit for each that is not zero, and the kept ones."""
    graph = Graph(read_model(content))
    first, *others = graph.operators
    weights = first.inputs[1]
    values = graph.constant(weights)
    kept = values[values != 0].view(np.uint8)
    header = np.array([2, 1, 0, 0, 1, *[0] * 11], np.uint8)
    parts = {"encoded": np.packbits(values != 0), "ancillary": np.concatenate([header, kept])}
    encoded = [graph.add_constant(name, part) for name, part in parts.items()]
    graph.tensors[weights].buffer = 0
    graph.operators = [graph.make_operator("CUSTOM", encoded, [weights], custom="TFLM_DECODE"), first, *others]
    return write_model(graph.model)
