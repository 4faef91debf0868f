"""From the intermediate graph to TFLite's tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from numpy.typing import NDArray

from keras_compress.ir.graph import Graph, Node
from keras_compress.ir.operators import ISLAND, LSTM, OPERATORS
from keras_compress.tflite.grids import ConstantGrid, Grid

SIGNATURE = "serving_default"
_FIELDS = {"activation": "fusedActivationFunction"}
_ENUMS: dict[str, Any] = {
    "activation": schema.ActivationFunctionType,
    "padding": schema.Padding,
    "mode": schema.MirrorPadMode,
}


@dataclass
class Emitted:
    """A float model as tables, and what the graph knows of its tensors, by their number.

    Attributes:
        model: The schema object (`ModelT`).
        grids: Tensors that hold integers on the device.
        weights: Constants whose integers are known.
        points: Activation point -> its tensor.
        lowest: Activation point -> lowest integer that may occur there.
        lstms: Output of an LSTM -> its name and its integers.
    """

    model: Any
    grids: dict[int, Grid] = field(default_factory=dict)
    weights: dict[int, ConstantGrid] = field(default_factory=dict)
    points: dict[str, int] = field(default_factory=dict)
    lowest: dict[str, int] = field(default_factory=dict)
    lstms: dict[int, tuple[str, bytes]] = field(default_factory=dict)


def emit(graph: Graph) -> Emitted:
    """The graph as a float32 model with signature `serving_default`; constants hold their real values.

    Inputs, outputs and signature entries are in the graph's order. A tensor is named by the first activation point on
    it, or else as in the graph, an input `serving_default_NAME:0`.

    Args:
        graph: A graph that `keras_compress.ir.check.check` takes.
    """
    emission = _Emission(graph)
    computed = [name for node in graph.nodes for name in node.outputs]
    constants = [name for node in graph.nodes for name in node.inputs if name and graph.tensors[name].is_constant]
    fed, given = ([tensor for _, tensor in ends] for ends in (graph.inputs, graph.outputs))
    for name in dict.fromkeys((*fed, *constants, *computed, *given)):
        emission.tensor(name)
    for node in graph.nodes:
        emission.node(node)
    emission.interface()
    return emission.emitted


class _Emission:
    """Tables under construction."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._numbers: dict[str, int] = {}
        self._codes: dict[tuple[int, bytes | None], int] = {}
        self._names = _tensor_names(graph)
        self._subgraph = schema.SubGraphT()
        self._subgraph.name, self._subgraph.tensors, self._subgraph.operators = b"main", [], []
        model = schema.ModelT()
        model.version, model.description = 3, b"keras_compress"
        model.operatorCodes, model.subgraphs, model.buffers = [], [self._subgraph], [schema.BufferT()]
        model.metadata, model.signatureDefs = [], []
        self.emitted = Emitted(model)

    def tensor(self, name: str) -> None:
        """A tensor, with its buffer where it is a constant."""
        tensor = self._graph.tensors[name]
        values = tensor.array() if tensor.is_constant else None
        number = self._add_tensor(self._names[name], tensor.shape, _type(tensor.dtype), values)
        self._numbers[name] = number
        if isinstance(tensor.values, ConstantGrid):
            self.emitted.weights[number] = tensor.values
        elif tensor.grid is not None:
            self.emitted.grids[number] = tensor.grid

    def node(self, node: Node) -> None:
        """An operator, or those of an island."""
        inputs = [-1 if name is None else self._numbers[name] for name in node.inputs]
        outputs = [self._numbers[name] for name in node.outputs]
        if node.operator == ISLAND:
            self._island(node, inputs, outputs)
            return
        op = schema.OperatorT()
        op.opcodeIndex = self._code(getattr(schema.BuiltinOperator, node.operator), None, 1)
        op.inputs, op.outputs = inputs, outputs
        if node.operator == LSTM:
            self.emitted.lstms[outputs[0]] = node.path, node.attributes["integers"]
        known = OPERATORS[node.operator]
        if known.options:
            op.builtinOptionsType = getattr(schema.BuiltinOptions, known.options)
            op.builtinOptions = _options(known.options, known.complete(node.attributes))
        self._subgraph.operators.append(op)

    def interface(self) -> None:
        """Inputs, outputs, signature and points."""
        graph, numbers = self._graph, self._numbers
        self._subgraph.inputs = [numbers[tensor] for _, tensor in graph.inputs]
        self._subgraph.outputs = [numbers[tensor] for _, tensor in graph.outputs]
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = SIGNATURE.encode(), 0
        signature.inputs = [_entry(name, numbers[tensor]) for name, tensor in graph.inputs]
        signature.outputs = [_entry(name, numbers[tensor]) for name, tensor in graph.outputs]
        self.emitted.model.signatureDefs = [signature]
        self.emitted.points = {point.name: numbers[point.tensor] for point in graph.points}
        self.emitted.lowest = {p.name: p.lowest for p in graph.points if p.lowest is not None}

    def _add_tensor(self, name: str, shape: Any, code: int, values: NDArray[Any] | None) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.type = name.encode(), code
        tensor.shape = [int(size) for size in shape]
        tensor.hasRank = True
        # Empty: tensors of one form share their vtable, and the file is smaller.
        tensor.quantization = schema.QuantizationParametersT()
        tensor.buffer = 0 if values is None else self._buffer(values)
        self._subgraph.tensors.append(tensor)
        return len(self._subgraph.tensors) - 1

    def _buffer(self, values: NDArray[Any]) -> int:
        buffer = schema.BufferT()
        little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        buffer.data = little.reshape(-1).view(np.uint8)
        self.emitted.model.buffers.append(buffer)
        return len(self.emitted.model.buffers) - 1

    def _code(self, builtin: int, custom: bytes | None, version: int) -> int:
        if (builtin, custom) not in self._codes:
            code = schema.OperatorCodeT()
            code.builtinCode, code.deprecatedBuiltinCode = builtin, min(builtin, 127)
            code.customCode, code.version = custom, version
            self._codes[builtin, custom] = len(self.emitted.model.operatorCodes)
            self.emitted.model.operatorCodes.append(code)
        number = self._codes[builtin, custom]
        found = self.emitted.model.operatorCodes[number]
        found.version = max(found.version, version)
        return number

    def _island(self, node: Node, inputs: list[int], outputs: list[int]) -> None:
        """The operators of a float flatbuffer of one subgraph, on tensors of this model."""
        model = flatbuffer_utils.read_model_from_bytearray(bytearray(node.attributes["content"]))
        inner = model.subgraphs[0]
        numbers = {-1: -1, **dict(zip(inner.inputs, inputs, strict=True))}
        direct = [(old, new) for old, new in zip(inner.outputs, outputs, strict=True) if old not in numbers]
        numbers.update((old, new) for old, new in direct)
        for old, tensor in enumerate(inner.tensors):
            if old not in numbers:
                numbers[old] = self._add_tensor(f"{node.path}/inner{old}", () if tensor.shape is None else tensor.shape,
                                                tensor.type, None)  # fmt: skip
                self._subgraph.tensors[numbers[old]].buffer = self._copied(model.buffers[tensor.buffer])
        for op in inner.operators:
            code = model.operatorCodes[op.opcodeIndex]
            builtin = flatbuffer_utils.get_builtin_code_from_operator_code(code)
            op.opcodeIndex = self._code(builtin, code.customCode, code.version)
            op.inputs, op.outputs = [numbers[i] for i in op.inputs], [numbers[i] for i in op.outputs]
            self._subgraph.operators.append(op)
        # What is given out twice, or given out as it came in, is copied.
        taken = set(direct)
        for old, new in zip(inner.outputs, outputs, strict=True):
            if (old, new) not in taken or numbers[old] != new:
                self._copy(numbers[old], new)

    def _copied(self, buffer: Any) -> int:
        if buffer.data is None or len(buffer.data) == 0:
            return 0
        self.emitted.model.buffers.append(buffer)
        return len(self.emitted.model.buffers) - 1

    def _copy(self, source: int, target: int) -> None:
        """A RESHAPE to the same shape: TFLite has no identity."""
        shape = np.array(self._subgraph.tensors[target].shape, np.int32)
        operand = self._add_tensor("", shape.shape, _type("int32"), shape)
        op = schema.OperatorT()
        op.opcodeIndex = self._code(schema.BuiltinOperator.RESHAPE, None, 1)
        op.inputs, op.outputs = [source, operand], [target]
        op.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
        op.builtinOptions = _options("ReshapeOptions", {"new_shape": tuple(shape.tolist())})
        self._subgraph.operators.append(op)


def _tensor_names(graph: Graph) -> dict[str, str]:
    """Tensor of the graph -> its name in the file, which is no other's."""
    names = {tensor: f"{SIGNATURE}_{name}:0" for name, tensor in graph.inputs}
    for point in reversed(graph.points):
        names[point.tensor] = point.name
    taken = set(names.values())
    for name in graph.tensors:
        if name not in names:
            free, number = name, 0
            while free in taken:
                number += 1
                free = f"{name}_{number}"
            names[name] = free
            taken.add(free)
    return names


def _options(table: str, settings: Mapping[str, Any]) -> Any:
    options = getattr(schema, f"{table}T")()
    for name, value in settings.items():
        setattr(options, _FIELDS.get(name, _camel(name)), _encoded(name, value))
    return options


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def _encoded(name: str, value: Any) -> Any:
    if name in _ENUMS:
        return getattr(_ENUMS[name], value)
    if name in ("in_data_type", "out_data_type", "output_type"):
        return _type(value)
    return list(value) if isinstance(value, tuple) else value


def _type(dtype: str) -> int:
    return int(getattr(schema.TensorType, dtype.upper()))


def _entry(name: str, tensor: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name.encode(), tensor
    return entry
