"""Weights and biases stored compressed, with the operators that decode them while TFLite-Micro runs the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.tflite.encoding.codec import Codec, Form
from keras_compress.tflite.encoding.known import DECODE, codecs
from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.lowering.rule import rule_of
from keras_compress.tflite.lowering.weighted import Weighted

# Why a weight that operators make is left alone.
COMPUTED = "it is computed, not constant"
# What the file grows by for one encoded tensor beside its payload, as measured on files with one to five of them (204
# bytes for the first, 764 for five): two tensors and buffers, an operator, and padding to 16 bytes.
TABLE_BYTES = 152


def form_of(graph: Graph, tensor: int) -> Form:
    """What the file says of a tensor, as DECODE reads it."""
    found, quantization = graph.quantization(tensor), graph.tensors[tensor].quantization
    scales, zero_point = (np.zeros(0), 0) if found is None else found
    dimension = 0 if quantization is None else int(quantization.quantizedDimension or 0)
    return Form(graph.shape(tensor), graph.dtype(tensor), scales.size, dimension, zero_point)


@dataclass
class Choice:
    """How one constant may be stored.

    Attributes:
        raw_bytes: Bytes of its values as they are.
        sizes: Codec -> bytes of what it would store, tables included.
        refusals: Codec -> why it cannot store this constant.
    """

    raw_bytes: int
    sizes: dict[str, int] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)

    @property
    def smallest(self) -> str | None:
        """The codec of the fewest bytes; `None` where none can store the constant."""
        return min(self.sizes, key=self.sizes.__getitem__, default=None)

    @property
    def pays(self) -> bool:
        """Whether that codec makes the file smaller."""
        return self.smallest is not None and self.sizes[self.smallest] + TABLE_BYTES < self.raw_bytes


def choices(values: NDArray[Any], form: Form, offered: Mapping[str, Codec]) -> Choice:
    """What each codec would make of a constant."""
    choice = Choice(values.nbytes)
    for key, codec in offered.items():
        reason = codec.refusal(values, form)
        if reason is None:
            choice.sizes[key] = codec.size(values, form)
        else:
            choice.refusals[key] = reason
    return choice


def encode_weights(graph: Graph, wanted: str = "auto", *, always: bool = False) -> list[str]:
    """Store the constants of convolutions and dense layers compressed, and decode each right before its operator.

    A constant that several operators read is stored once and decoded for each of them. What was written must be decoded
    and compared before a runtime is given the file, whose kernels check nothing: `convert.compressed` does.

    Args:
        graph: Integer graph for TFLite-Micro.
        wanted: `"auto"`, the smallest for each constant, or the name of one codec.
        always: Encode also where that makes the file larger.

    Returns:
        A line for each weight that stays as it is, with the reason.
    """
    known = codecs()
    offered = known if wanted == "auto" else {wanted: known[wanted]}
    encoder = _Encoder(graph, offered, always)
    operators: list[Any] = []
    for op in graph.operators:
        operators += encoder.before(op)
        operators.append(op)
    graph.operators = operators
    return encoder.notes


class _Encoder:
    """One walk over the operators of a graph."""

    def __init__(self, graph: Graph, offered: Mapping[str, Codec], always: bool) -> None:
        self.graph = graph
        self.notes: list[str] = []
        self._offered = offered
        self._always = always
        self._elsewhere = _read_elsewhere(graph)
        # Constant -> its two byte tensors, or `None` for one that stays.
        self._stored: dict[int, tuple[int, int] | None] = {}

    def before(self, op: Any) -> list[Any]:
        """The DECODE operator that gives `op` its constants; none where they stay as they are."""
        pairs: list[int] = []
        decoded: list[int] = []
        inputs = list(op.inputs)
        for position in operands(self.graph, op):
            tensor = inputs[position]
            first = tensor not in self._stored
            if first:
                self._stored[tensor] = self._store(tensor)
            stored = self._stored[tensor]
            if stored is not None:
                pairs += stored
                # The first reader keeps the tensor, so that its name stays what it was.
                inputs[position] = tensor if first else _copy(self.graph, tensor)
                decoded.append(inputs[position])
        op.inputs = inputs
        return [self.graph.make_operator("CUSTOM", pairs, decoded, custom=DECODE)] if decoded else []

    def _store(self, tensor: int) -> tuple[int, int] | None:
        graph, name = self.graph, self.graph.name(tensor)
        values = graph.constant(tensor)
        reason = self._why_not(tensor)
        if values is None or reason is not None:
            self.notes.append(f"{name}: {reason}")
            return None
        form = form_of(graph, tensor)
        choice = choices(values, form, self._offered)
        codec = choice.smallest
        if codec is None or not (self._always or choice.pays):
            if values.ndim > 1:
                self.notes.append(f"{name}: {_why_raw(choice)}")
            return None
        encoded = self._offered[codec].encode(values, form)
        graph.free_constant(tensor)
        return graph.add_constant("", encoded.data), graph.add_constant("", encoded.ancillary)

    def _why_not(self, tensor: int) -> str | None:
        if not self.graph.is_constant(tensor):
            return COMPUTED
        if self.graph.dtype(tensor) in ("int4", "int2"):
            return f"it is packed as {self.graph.dtype(tensor)}"
        return "other operators read it, or the model gives it out" if tensor in self._elsewhere else None


def operands(graph: Graph, op: Any) -> Iterator[int]:
    """Positions of an operator's inputs that may be decoded: weights and biases, never shapes or paddings."""
    rule = rule_of(graph.kind(op))
    if isinstance(rule, Weighted):
        for position in (rule.weight, rule.bias):
            if position < len(op.inputs) and op.inputs[position] >= 0 and _has_values(graph, op.inputs[position]):
                yield position


def _has_values(graph: Graph, tensor: int) -> bool:
    return 0 not in graph.shape(tensor)


def _read_elsewhere(graph: Graph) -> set[int]:
    """Constants that some operator reads as it cannot read a decoded one, or that the model gives out."""
    found = set(graph.outputs)
    for op in graph.operators:
        allowed = {op.inputs[position] for position in operands(graph, op)}
        found.update(t for t in op.inputs if t >= 0 and t not in allowed)
    return found


def _copy(graph: Graph, tensor: int) -> int:
    """Another computed tensor of the same type and scales."""
    made = graph.add_tensor(graph.name(tensor), graph.shape(tensor), graph.dtype(tensor))
    graph.tensors[made].quantization = graph.tensors[tensor].quantization
    return made


def _why_raw(choice: Choice) -> str:
    codec = choice.smallest
    if codec is None:
        return "; ".join(f"{refusing}: {reason}" for refusing, reason in choice.refusals.items())
    return f"{choice.raw_bytes:,} bytes as it is, {choice.sizes[codec] + TABLE_BYTES:,} with {codec} and its tables"
