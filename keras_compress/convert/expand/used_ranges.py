"""Measured ranges that fit what the device does in front of them and behind them.

They end where what reads them becomes constant: integers for values beyond would be wasted. And a sum's or product's
step is no less than a 128th of the steps that go in: one step of an input is more than the output's range else, of
which the device could tell no more, and LiteRT's kernels overflow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_compress.convert.expand.activations import range_of_use
from keras_compress.core import keras_private
from keras_compress.graph import graph
from keras_compress.quantizers.activation import QuantizeActivation
from keras_compress.quantizers.kinds import Kind, kind_of
from keras_compress.tflite.lowering.constants import LARGEST_FACTOR


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

    Args:
        model: Flat model, all of whose ranges are known.
        points: Points of it whose ranges were measured.
    """
    wanted = {id(point) for point in points}
    for node in graph.nodes(model):
        if id(node.operation) not in wanted:
            continue
        producer = keras_private.maker(node.input_tensors[0])
        kind = type(producer).__name__
        if kind in ("Add", "Subtract", "Multiply"):
            steps = [step for step in map(_step, _inputs(node)) if step is not None]
            if len(steps) == 2:
                step = math.prod(steps) if kind == "Multiply" else sum(steps)
                _widen(node.operation.quantizer, step / LARGEST_FACTOR)


def _inputs(point: Any) -> list[Any]:
    """What goes into the operation in front of a point."""
    return list(keras_private.call_node(point.input_tensors[0]).input_tensors)


def _step(tensor: Any) -> float | None:
    """The scale of a tensor's integers; `None` where no point made it."""
    operation = keras_private.maker(tensor)
    while kind_of(operation) is Kind.SAME and (read := keras_private.call_node(tensor).input_tensors):
        tensor = read[0]
        operation = keras_private.maker(tensor)
    return float(operation.quantizer.parameters()[0]) if isinstance(operation, QuantizeActivation) else None


def _widen(quantizer: Any, step: float) -> None:
    found = float(quantizer.parameters()[0])
    if found < step:
        quantizer.set_range(*(float(end) * step / found for end in quantizer.range()))
