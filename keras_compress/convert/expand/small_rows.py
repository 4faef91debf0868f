"""Rows far smaller than the largest, whose squares and variances 8 bits do not tell apart, measured on finer grids.

A normalization divides each row by its own length, which it reads from the mean of the row's squares. On one grid for
all rows, a row of a twentieth of the largest has squares of less than a step: it is divided by what is left of them.
Such rows (the background of an image, short words) are therefore measured a second time, on grids some times finer,
where the large ones saturate. Each measure gives a root from its own table, of which the smaller one counts:

    1 / length = min(near(mean of squares, finely), far(mean of squares))

`near` is the largest root where its argument saturates, and `far` no less than the root can be where its argument is
that of a small row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_compress.calibration.calibrate import MeasuredRange
from keras_compress.calibration.used import FactorRange
from keras_compress.convert.expand.activations import PointwiseFunction
from keras_compress.convert.expand.weights import frozen, integer_weight
from keras_compress.convert.final_grid import final_grid
from keras_compress.core import keras_private
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph
from keras_compress.graph.model import copy_layer, inner
from keras_compress.quantizers.activation import FixedGrid, QuantizeActivation

Node = Any
Tensor = Any
# How many times finer the second grids may be.
FINER = (4, 8, 16)
# Mean square error of the roots, relative to their squares, that is worth the time: rounding what comes of them to
# 8 bits costs a tenth of it.
WORTH = 1e-3
# A finer pair of grids is taken where it has less than this part of the error.
_MUCH_LESS = 0.8
_STEPS = 255
# Ends the names of what is computed for small rows.
SMALL = ".small"


@dataclass(frozen=True)
class Measured:
    """A normalization whose small rows are to be measured finely.

    Attributes:
        squares: The call that gives the squares.
        mean: The call that gives their mean.
        steps: Of the grids of both.
        root: Range of the roots.
        times: How many times finer the second grids are.
    """

    squares: Node
    mean: Node
    steps: tuple[float, float]
    root: FactorRange
    times: float


@dataclass(frozen=True)
class _Point:
    """A point between two calls: the call in front of it, its name and its grid."""

    before: Node
    name: str
    grid: FixedGrid


def small_rows(flat: keras.Model, known: Mapping[str, FixedGrid] | None = None) -> keras.Model:
    """The same function with small rows measured apart; the model itself where there are none.

    Args:
        flat: Flat model, all of whose ranges are known; a private copy, whose layers go into the new one.
        known: Names of points -> the grids of a file, which tell what is measured apart in it.
    """
    table = graph.consumers(flat)
    seen = [(id(n), _measured(n, graph.sole_consumer(n, flat, table), known or {})) for n in graph.nodes(flat)]
    found = {key: each for key, each in seen if each is not None}
    if not found:
        return flat
    wanted = {id(each.squares) for each in found.values()}
    read: dict[int, Tensor] = {}
    for each in found.values():
        each.root.tell_finer(each.times)

    def visit(call: graph.Call) -> Any:
        if id(call.node) in wanted:
            read[id(call.node)] = keras.tree.flatten(call.args)[0]
        root = found.get(id(call.node))
        return call.again() if root is None else _roots(call, root, read[id(root.squares)])

    return graph.Rebuild(visit, flat=True).model(flat)


def _measured(node: Node, reader: Node | None, known: Mapping[str, FixedGrid]) -> Measured | None:
    """What is known of a normalization, by the call of its root and what reads it, where small rows are worth it."""
    root = getattr(getattr(reader, "operation", None), "quantizer", None)
    if getattr(node.operation, "function", None) != "rsqrt" or not isinstance(root, FactorRange):
        return None
    mean = _point_before(node, known)
    is_sum = mean is not None and isinstance(mean.before.operation, Compressed)
    squares = _point_before(mean.before, known) if mean is not None and is_sum else None
    if mean is None or squares is None or type(squares.before.operation).__name__ != "Multiply":
        return None
    first, *others = squares.before.input_tensors
    if any(each is not first for each in others):
        return None
    steps = squares.grid.scale, mean.grid.scale
    times: float | None = times_finer(root, steps, int(first.shape[-1]))
    if mean.name in known:
        fine = known.get(f"{_small(mean.before)}_quantized")
        times = None if fine is None else mean.grid.scale / fine.scale
    return None if times is None else Measured(squares.before, mean.before, steps, root, times)


def _point_before(node: Node, known: Mapping[str, FixedGrid]) -> _Point | None:
    """The measured 8-bit point that a call reads."""
    call = keras_private.call_node(node.input_tensors[0])
    quantizer = getattr(call.operation, "quantizer", None)
    if not isinstance(call.operation, QuantizeActivation) or type(quantizer) is not MeasuredRange:
        return None
    if quantizer.bits != 8:
        return None
    name = call.operation.name
    grid = known.get(name) or final_grid(quantizer, 8)
    return _Point(keras_private.call_node(call.input_tensors[0]), name, grid)


def times_finer(root: FactorRange, steps: tuple[float, float], length: int) -> int | None:
    """How many times finer grids for small rows are best; `None` where they would give too little.

    Args:
        root: What was seen of the roots, each with what it weighs.
        steps: Of the squares, and of their mean.
        length: Of a row.
    """
    factors, weights = root.seen()
    if root.bits != 8 or not weights.sum():
        return None
    means = factors**-2.0
    # Roundings of the squares are independent of each other, that of their mean is the last.
    noise = np.hypot(steps[0] / np.sqrt(12.0 * length), steps[1] / np.sqrt(12.0))

    def error(times: int) -> float:
        own = np.where(means < _STEPS * steps[1] / times, noise / times, noise)
        return float(np.minimum(np.square(own / (2 * means)), 1.0) @ weights / weights.sum())

    least, best = error(1), None
    if least < WORTH:
        return None
    for times in FINER:
        if error(times) < _MUCH_LESS * least:
            least, best = error(times), times
    return best


def _roots(call: graph.Call, measured: Measured, deviation: Tensor) -> Tensor:
    """The smaller of the two roots."""
    name, epsilon = call.operation.name, float(call.operation.arguments.get("epsilon", 0.0))
    square, mean = measured.steps
    squares = keras.layers.Multiply(name=_small(measured.squares))([deviation, deviation])
    squares = _on(squares, _up_to(_STEPS * square / measured.times), _small(measured.squares))
    layer = measured.mean.operation
    weight = integer_weight(layer, "kernel")
    fine = frozen(copy_layer(inner(layer), name=_small(measured.mean)), weight)(squares)
    fine = _on(fine, _up_to(_STEPS * mean / measured.times), _small(measured.mean))
    # The last of the finer integers stands for all larger ones, too.
    near = {"epsilon": epsilon, "end": (_STEPS - 0.5) * mean / measured.times}
    far = {"epsilon": epsilon, "start": _STEPS * mean / measured.times, "off": (mean + square) / 2}
    roots = [
        _on(PointwiseFunction(function, given, name=f"{name}.{function}")(tensor), measured.root, f"{name}.{function}")
        for function, given, tensor in (("rsqrt_below", near, fine), ("rsqrt_above", far, call.args[0]))
    ]
    return keras.layers.Minimum(name=name)(roots)


def is_of_small_rows(point: str) -> bool:
    """Whether a point stands within what is computed for small rows, by its name."""
    return point.endswith((f"{SMALL}_quantized", ".rsqrt_below_quantized", ".rsqrt_above_quantized"))


def _small(node: Node) -> str:
    return f"{node.operation.name}{SMALL}"


def _up_to(end: float) -> MeasuredRange:
    made = MeasuredRange(8)
    made.set_range(0.0, end)
    return made


def _on(tensor: Tensor, quantizer: MeasuredRange, name: str) -> Tensor:
    return QuantizeActivation(quantizer, name=f"{name}_quantized")(tensor)
