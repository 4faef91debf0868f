"""Integer graphs built by hand, operator by operator, for tests of edits on `.tflite` files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_compress.runtime.target import target
from keras_compress.tflite.flatbuffer import Graph, read_model, write_model
from keras_compress.tflite.lowering.versions import set_versions

RELU = schema.ActivationFunctionType.RELU
KERNELS = {"tflm": ("tflm", {}), "reference": ("litert", {"kernels": "reference"}), "xnnpack": ("litert", {})}


def _empty_model() -> Any:
    model, subgraph = schema.ModelT(), schema.SubGraphT()
    model.version = 3
    model.buffers, model.operatorCodes, model.subgraphs = [schema.BufferT()], [], [subgraph]
    subgraph.tensors, subgraph.operators, subgraph.inputs, subgraph.outputs = [], [], [], []
    return model


class IntegerNet:
    """A graph of int8 (or int16) activations; each method adds an operator and returns its output tensor.

    Args:
        shape: Of the input, with its batch of 1.
        bits: 8 or 16.
        scale, zero_point: Of the input.
    """

    def __init__(self, *shape: int, bits: int = 8, scale: float = 0.05, zero_point: int = 3) -> None:
        self.graph, self.bits = Graph(_empty_model()), bits
        self.input = self.activation("x", shape, scale, zero_point)
        self.graph.model.subgraphs[0].inputs = [self.input]

    def activation(self, name: str, shape: Sequence[int], scale: float, zero_point: int) -> int:
        made = self.graph.add_tensor(name, shape, f"int{self.bits}")
        self.graph.set_quantization(made, np.array([scale], np.float32), zero_point if self.bits == 8 else 0)
        return made

    def add(self, kind: str, inputs: list[int], output: int, options: Any = None, **fields: Any) -> int:
        for name, value in fields.items():
            setattr(options, name, value)
        self.graph.operators = [*self.graph.operators, self.graph.make_operator(kind, inputs, [output], options)]
        return output

    def grid(self, tensor: int) -> tuple[float, int]:
        scales, zero_point = self.graph.quantization(tensor)
        return float(scales[0]), zero_point

    def weight(self, values: Any, scales: Any, axis: int = 0) -> int:
        made = self.graph.add_constant("w", np.asarray(values, np.int8))
        self.graph.set_quantization(made, np.asarray(scales, np.float32).reshape(-1), 0, axis)
        return made

    def weighted(
        self, kind: str, x: int, weight: int, bias: Any, shape: Sequence[int], out: tuple[float, int], options: Any,
        **fields: Any,
    ) -> int:  # fmt: skip
        inputs = [x, weight]
        if bias is not None:
            stored = np.asarray(bias, np.int32 if self.bits == 8 else np.int64)
            inputs.append(self.graph.add_constant("b", stored))
            scales = self.graph.quantization(weight)[0] * np.float32(self.grid(x)[0])
            self.graph.set_quantization(inputs[2], scales)
        return self.add(kind, inputs, self.activation(kind.lower(), shape, *out), options, **fields)

    def dense(
        self, x: int, values: Any, bias: Any = None, *, scales: Any = 0.01, out: tuple[float, int] = (0.1, -5),
        act: int = 0,
    ) -> int:  # fmt: skip
        weight = values if isinstance(values, int) else self.weight(values, scales)
        outputs = self.graph.shape(weight)[0]
        options = schema.FullyConnectedOptionsT()
        return self.weighted(
            "FULLY_CONNECTED", x, weight, bias, (1, outputs), out, options, fusedActivationFunction=act
        )

    def conv(
        self, x: int, values: Any, bias: Any = None, *, scales: Any = 0.01, out: tuple[float, int] = (0.1, -5),
        act: int = 0, same: bool = False, stride: int = 1, depthwise: bool = False,
    ) -> int:  # fmt: skip
        axis = 3 if depthwise else 0
        weight = values if isinstance(values, int) else self.weight(values, scales, axis)
        taps, outputs = self.graph.shape(weight)[1:3], self.graph.shape(weight)[axis]
        sizes = self.graph.shape(x)[1:3]
        places = [-(-s // stride) if same else (s - t) // stride + 1 for s, t in zip(sizes, taps, strict=True)]
        options: Any = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        if depthwise:
            options.depthMultiplier = outputs // self.graph.shape(x)[3]
        return self.weighted(
            "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", x, weight, bias, (1, *places, outputs), out, options,
            padding=schema.Padding.SAME if same else schema.Padding.VALID, strideH=stride, strideW=stride,
            dilationHFactor=1, dilationWFactor=1, fusedActivationFunction=act,
        )  # fmt: skip

    def same_grid(self, kind: str, inputs: list[int], shape: Sequence[int], options: Any, **fields: Any) -> int:
        made = self.activation(kind.lower(), shape, *self.grid(inputs[0]))
        return self.add(kind, inputs, made, options, **fields)

    def pool(self, x: int, kind: str = "MAX_POOL_2D") -> int:
        _, height, width, channels = self.graph.shape(x)
        return self.same_grid(
            kind, [x], (1, height // 2, width // 2, channels), schema.Pool2DOptionsT(),
            padding=schema.Padding.VALID, filterHeight=2, filterWidth=2, strideH=2, strideW=2,
            fusedActivationFunction=0,
        )  # fmt: skip

    def flatten(self, x: int) -> int:
        shape = (1, math.prod(self.graph.shape(x)))
        stored = self.graph.add_constant("shape", np.array(shape, np.int32))
        return self.same_grid("RESHAPE", [x, stored], shape, schema.ReshapeOptionsT(), newShape=list(shape))

    def binary(self, kind: str, x: int, y: int, out: tuple[float, int] = (0.1, 4), act: int = 0) -> int:
        options = getattr(schema, f"{kind.title()}OptionsT")()
        shape = max((self.graph.shape(t) for t in (x, y)), key=math.prod)
        return self.add(kind, [x, y], self.activation(kind.lower(), shape, *out), options, fusedActivationFunction=act)

    def concat(self, tensors: list[int]) -> int:
        shape = (*self.graph.shape(tensors[0])[:-1], sum(self.graph.shape(t)[-1] for t in tensors))
        options = schema.ConcatenationOptionsT()
        return self.same_grid("CONCATENATION", tensors, shape, options, axis=len(shape) - 1, fusedActivationFunction=0)

    def unary(self, kind: str, x: int, out: tuple[float, int]) -> int:
        return self.add(kind, [x], self.activation(kind.lower(), self.graph.shape(x), *out))

    def file(self, *outputs: int) -> bytes:
        """The `.tflite` file with these outputs."""
        self.graph.model.subgraphs[0].outputs = list(outputs)
        set_versions(self.graph)
        return write_model(self.graph.model)


def run_everywhere(content: bytes, inputs: Any, kernels: Sequence[str] = tuple(KERNELS)) -> dict[str, list[Any]]:
    """Kernels -> outputs."""
    return {name: target(KERNELS[name][0], **KERNELS[name][1]).run(content, [inputs]) for name in kernels}


def shapes(content: bytes) -> dict[str, tuple[int, ...]]:
    """Tensor -> shape."""
    graph = Graph(read_model(content))
    return {graph.name(t): graph.shape(t) for t in range(len(graph.tensors))}
