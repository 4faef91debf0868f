"""Measured ranges that fit what the device does in front of them and behind them.

They end where what reads them becomes constant: integers for values beyond would be wasted. And a sum's or product's
step is no less than a 128th of the steps that go in: one step of an input is more than the output's range else, of
which the device could tell no more, and LiteRT's kernels overflow. A constant that is added is a whole number of steps:
all values would be off by the same part of one else, which no mean takes out. And what is selected out of integers,
not computed, is not rounded again: its steps are whole parts of theirs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_compress.convert.expand.activations import function_of, range_of_use, varies_between
from keras_compress.convert.expand.lookups import Rows
from keras_compress.convert.expand.weights import integer_weight
from keras_compress.core import keras_private
from keras_compress.core.batch_norm import affine_of
from keras_compress.graph import graph
from keras_compress.graph.model import inner
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.quantizers.kinds import Kind, activation_name, kind_of, unmoved
from keras_compress.tflite.lowering.constants import LARGEST_FACTOR

# More would cost all values more than a third of a decibel, for what only means are told by.
LARGEST_WIDENING = 1.04
# Results may be off by so much of their steps for arguments beyond the end of a range: all alike, which means keep.
MOST_CUT_STEPS = 1 / 16
# A range that would lose less keeps its steps: they may be those of sums in front, which are not rounded then.
MOST_LEFT = 0.75
# Each of their values is one of an input's, or its negative.
SELECTING = ("Maximum", "Minimum", "Absolute", "Relu", "ReLU")
# Steps are float32 numbers.
_ALIKE = 1e-5

# The kernels' fixed point has 26 bits behind the point.
FINEST_INTO_SOFTMAX = 2.0**-25


def end_with_use(model: keras.Model, points: Sequence[QuantizeActivation]) -> None:
    """Cut the measured ranges of some points to where what reads them varies, moved before that or not.

    Args:
        model: Flat model, all of whose ranges are known.
        points: Points of it whose ranges were measured.
    """
    table, wanted = graph.consumers(model), {id(point) for point in points}
    nodes = [node for node in graph.nodes(model) if id(node.operation) in wanted]
    left = Counter(id(node.operation.quantizer) for node in nodes)
    uses: dict[int, list[tuple[float, float]]] = {}
    # The last first: where a function's own result ends says where its arguments do.
    for node in reversed(nodes):
        quantizer = node.operation.quantizer
        uses.setdefault(id(quantizer), []).extend(_uses(node, quantizer, model, table))
        left[id(quantizer)] -= 1
        if not left[id(quantizer)]:
            lows, highs = zip(*uses[id(quantizer)], strict=True)
            quantizer.set_range(*(float(end) for end in np.clip(quantizer.range(), min(lows), max(highs))))


def _uses(node: Any, quantizer: Any, model: keras.Model, table: dict[int, list[Any]]) -> list[tuple[float, float]]:
    """Between which values each reader of what a call makes varies."""
    if any(tensor is out for tensor in node.outputs for out in graph.functional(model).outputs):
        return [(-np.inf, np.inf)]
    found = []
    for tensor in node.outputs:
        for reader in table.get(id(tensor), []):
            moved = kind_of(reader.operation) is Kind.SAME and not isinstance(reader.operation, QuantizeActivation)
            found += (
                _uses(reader, quantizer, model, table) if moved else [_use(reader, tensor, quantizer, model, table)]
            )
    return found or [(-np.inf, np.inf)]


def _use(
    reader: Any, tensor: Any, quantizer: Any, model: keras.Model, table: dict[int, list[Any]]
) -> tuple[float, float]:
    """The same of one reader: by the function that it is, and by the range of what it makes."""
    low, high = range_of_use(reader.operation, quantizer.bits)
    behind, name = _range_behind(reader, model, table), type(reader.operation).__name__
    if behind is None or quantizer.bits != 8:
        return low, high
    if name in ("Maximum", "Minimum"):
        # What is lower than any maximum is none of them; what is higher, is cut behind it.
        low, high = behind.range()
        return float(low), float(high)
    if isinstance(reader.operation, keras.layers.BatchNormalization):
        return _before(affine_of(reader.operation), behind)
    function = _silu if name == "Multiply" and _is_silu(reader, tensor) else function_of(reader.operation)
    if function is None or getattr(behind, "weighs", False):
        # Factors count by what they are of themselves.
        return low, high
    lowest, highest = (float(end) for end in np.clip(quantizer.range(), low, high))
    cut = varies_between(function, lowest, highest, float(behind.parameters()[0]) * MOST_CUT_STEPS)
    return cut if _length(*cut) < MOST_LEFT * _length(lowest, highest) else (low, high)


def _before(affine: Any, made: Any) -> tuple[float, float]:
    """Which values a factor and an offset for each channel bring into a range."""
    if not affine.factor.all():
        return -np.inf, np.inf
    ends = [(float(end) - affine.offset) / affine.factor for end in made.range()]
    return float(np.min(ends)), float(np.max(ends))


def _length(low: float, high: float) -> float:
    """Of a range, which holds 0."""
    return max(high, 0.0) - min(low, 0.0)


def _range_behind(node: Any, model: keras.Model, table: dict[int, list[Any]]) -> Any:
    """The 8-bit quantizer of the point behind a call, and what its kernel takes along; `None` where there is none."""
    reader = graph.sole_consumer(node, model, table)
    while reader is not None and kind_of(reader.operation) in (Kind.SAME, Kind.CLAMP):
        if isinstance(reader.operation, QuantizeActivation):
            break
        reader = graph.sole_consumer(reader, model, table)
    point = None if reader is None else reader.operation
    if not isinstance(point, QuantizeActivation) or point.quantizer.replaces_relu or point.quantizer.bits != 8:
        return None
    return point.quantizer


def _silu(x: Any) -> Any:
    return keras.activations.silu(x)


def _is_silu(product: Any, factor: Any) -> bool:
    """Whether a product is that of a tensor with its own sigmoid."""
    gates = [t for t in product.input_tensors if t is not factor]
    if len(gates) != 1 or not isinstance(keras_private.maker(gates[0]), QuantizeActivation):
        return False
    (made,) = keras_private.call_node(gates[0]).input_tensors
    of = keras_private.call_node(made).input_tensors
    return activation_name(keras_private.maker(made)) == "sigmoid" and len(of) == 1 and of[0] is factor


def coarse_enough(model: keras.Model, points: Sequence[QuantizeActivation]) -> None:
    """Widen the measured ranges of sums and products whose steps would be too fine for their inputs' ones.

    Those in front of a softmax too: kernels stop the program where their factor into its fixed point is below 1.

    Args:
        model: Flat model, all of whose ranges are known.
        points: Points of it whose ranges were measured.
    """
    table, wanted = graph.consumers(model), {id(point) for point in points}
    for node in graph.nodes(model):
        if id(node.operation) not in wanted:
            continue
        readers = [activation_name(reader.operation) for reader in table.get(id(node.outputs[0]), [])]
        if "softmax" in readers or "log_softmax" in readers:
            _widen(node.operation.quantizer, FINEST_INTO_SOFTMAX)
        producer = keras_private.maker(node.input_tensors[0])
        kind = type(producer).__name__
        if kind in ("Add", "Subtract", "Multiply"):
            steps = [step for step in map(_step, _inputs(node)) if step is not None]
            if len(steps) == 2:
                step = math.prod(steps) if kind == "Multiply" else sum(steps)
                _widen(node.operation.quantizer, step / LARGEST_FACTOR)


def whole_offsets(model: keras.Model, points: Sequence[QuantizeActivation]) -> None:
    """Widen the measured ranges behind `a * x + b`, of two numbers, until `b` is a whole number of steps, if it can be.

    Measured ends make the steps of `x` those of the sum, `a` times: what `b` is off by, each value is.

    Args:
        model: Flat model, all of whose ranges are known.
        points: Points of it whose ranges were measured.
    """
    wanted = {id(point) for point in points}
    for node in graph.nodes(model):
        offset = _offset(node) if id(node.operation) in wanted else 0.0
        steps = abs(offset) / float(node.operation.quantizer.parameters()[0]) if offset else 0.0
        if steps >= 1 and steps <= LARGEST_WIDENING * math.floor(steps):
            _widen(node.operation.quantizer, abs(offset) / math.floor(steps))


def whole_steps(model: keras.Model, points: Sequence[QuantizeActivation]) -> None:
    """Widen the measured 8-bit ranges of what a maximum or a magnitude selects, where its values need no rounding then.

    Values that an input has in whole steps are whole steps here too, where these divide those. Those of the other input
    are rounded, to wider steps than before: the ranges are widened where that costs less.

    Args:
        model: Flat model, all of whose ranges are known.
        points: Points of it whose ranges were measured.
    """
    wanted = {id(point) for point in points}
    for node in graph.nodes(model):
        producer = keras_private.maker(node.input_tensors[0]) if id(node.operation) in wanted else None
        if type(producer).__name__ in SELECTING and node.operation.quantizer.bits == 8:
            found = float(node.operation.quantizer.parameters()[0])
            _widen(node.operation.quantizer, _whole_step(found, [_step(tensor) for tensor in _inputs(node)]))


def _whole_step(found: float, steps: Sequence[float | None]) -> float:
    """The step, no finer than the one that was found, with the least noise of what is rounded, for inputs in steps."""
    wide = [step for step in steps if step is not None and step >= found * (1 - _ALIKE)]
    parts = [step / math.floor(step / found * (1 + _ALIKE)) for step in wide]

    def noise(step: float) -> float:
        rounded = [s for s in steps if s is None or abs(s / step - round(s / step)) > _ALIKE * s / step]
        return step**2 * len(rounded)

    return min([found, *parts], key=lambda step: (noise(step), step))


def _offset(point: Any) -> float:
    """The number that a normalization of other integers adds to all of them, in front of a point; else 0."""
    made = unmoved(point.input_tensors[0])
    norm = keras_private.maker(made)
    if not isinstance(norm, keras.layers.BatchNormalization):
        return 0.0
    alone = _step(keras_private.call_node(made).input_tensors[0]) is not None
    affine = affine_of(norm)
    same = np.ptp(affine.factor) == 0 and np.ptp(affine.offset) == 0
    return float(affine.offset[0]) if alone and same else 0.0


def _inputs(point: Any) -> list[Any]:
    """What goes into the operation in front of a point."""
    return list(keras_private.call_node(point.input_tensors[0]).input_tensors)


def _step(tensor: Any) -> float | None:
    """The scale of a tensor's integers; `None` where no point made it."""
    made = unmoved(tensor)
    point = keras_private.maker(made)
    if not isinstance(point, QuantizeActivation):
        return None
    rows = keras_private.maker(unmoved(keras_private.call_node(made).input_tensors[0]))
    if isinstance(rows, keras.layers.Layer) and isinstance(inner(rows), Rows):
        # They stay on their table's grid.
        return float(integer_weight(rows, "kernel").scale.item())
    return float(point.quantizer.parameters()[0])


def _widen(quantizer: Any, step: float) -> None:
    found = float(quantizer.parameters()[0])
    if found < step:
        quantizer.set_range(*(float(end) * step / found for end in quantizer.range()))
