"""Measured ranges that fit what the device does in front of them and behind them.

They end where what reads them becomes constant: integers for values beyond would be wasted. And a sum's or product's
step is no less than a 128th of the steps that go in: one step of an input is more than the output's range else, of
which the device could tell no more, and LiteRT's kernels overflow. A constant that is added is a whole number of steps:
all values would be off by the same part of one else, which no mean takes out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_compress.convert.expand.activations import range_of_use
from keras_compress.core import keras_private
from keras_compress.core.batch_norm import affine_of
from keras_compress.graph import graph
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.quantizers.kinds import Kind, activation_name, kind_of, unmoved
from keras_compress.tflite.lowering.constants import LARGEST_FACTOR

# More would cost all values more than a third of a decibel, for what only means are told by.
LARGEST_WIDENING = 1.04


# The kernels' fixed point has 26 bits behind the point.
FINEST_INTO_SOFTMAX = 2.0**-25


def end_with_use(model: keras.Model, points: Sequence[QuantizeActivation]) -> None:
    """Cut the measured ranges of some points to where the functions that read them vary, moved before that or not.

    Args:
        model: Flat model.
        points: Points of it whose ranges were measured.
    """
    table, wanted = graph.consumers(model), {id(point) for point in points}
    uses: dict[int, list[tuple[float, float]]] = {}
    quantizers: dict[int, Any] = {}
    for node in graph.nodes(model):
        if id(node.operation) in wanted:
            quantizer = node.operation.quantizer
            quantizers[id(quantizer)] = quantizer
            uses.setdefault(id(quantizer), []).extend(_uses(node, quantizer.bits, model, table))
    for key, quantizer in quantizers.items():
        lows, highs = zip(*uses[key], strict=True)
        quantizer.set_range(*(float(end) for end in np.clip(quantizer.range(), min(lows), max(highs))))


def _uses(node: Any, bits: int, model: keras.Model, table: dict[int, list[Any]]) -> list[tuple[float, float]]:
    """Between which values each reader of what a call makes varies."""
    if any(tensor is out for tensor in node.outputs for out in graph.functional(model).outputs):
        return [(-np.inf, np.inf)]
    found = []
    for reader in (reader for tensor in node.outputs for reader in table.get(id(tensor), [])):
        moved = kind_of(reader.operation) is Kind.SAME and not isinstance(reader.operation, QuantizeActivation)
        found += _uses(reader, bits, model, table) if moved else [range_of_use(reader.operation, bits)]
    return found or [(-np.inf, np.inf)]


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
    operation = keras_private.maker(unmoved(tensor))
    return float(operation.quantizer.parameters()[0]) if isinstance(operation, QuantizeActivation) else None


def _widen(quantizer: Any, step: float) -> None:
    found = float(quantizer.parameters()[0])
    if found < step:
        quantizer.set_range(*(float(end) * step / found for end in quantizer.range()))
