"""Operators that move values or take some of them, or reduce over positions."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_compress.tflite.dead_units.cut import Cut, set_last, set_last_of_shape
from keras_compress.tflite.dead_units.rounding import Known
from keras_compress.tflite.dead_units.rule import Rule, same_grid, zero_at_zero
from keras_compress.tflite.dead_units.units import Units, width


class Reshape(Rule):
    """Flatten, and its opposite: of the longer axis, every place whose number is c modulo the shorter is channel c."""

    handles = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")

    def fits(self, units: Units, op: Any) -> bool:
        before, after = (width(units.graph, t) for t in (op.inputs[0], op.outputs[0]))
        fixed = all(units.graph.is_constant(t) for t in op.inputs[1:])
        return fixed and min(before, after) > 0 and max(before, after) % min(before, after) == 0

    def tie(self, units: Units, op: Any) -> None:
        first, second = units.of(op.inputs[0]), units.of(op.outputs[0])
        size = max(first.size, second.size)
        units.tie(_tiled(first, size), _tiled(second, size))
        units.open(op.outputs[0])

    def known(self, units: Units, op: Any) -> Known | None:
        if not same_grid(units.graph, op):
            return None
        data, channels = units.known(op.inputs[0]), width(units.graph, op.outputs[0])
        if channels >= data.sure.size:
            return Known(_tiled(data.values, channels), _tiled(data.sure, channels))
        values, sure = data.values.reshape(-1, channels), data.sure.reshape(-1, channels)
        return Known(values[0], (sure & (values == values[0])).all(0))

    def cut(self, cut: Cut, op: Any) -> None:
        if cut.graph.kind(op) == "RESHAPE" and cut.touches(op.outputs[0]):
            set_last_of_shape(cut.graph, op, int(cut.kept(op.outputs[0]).sum()))


class Reduction(Rule):
    """Over positions, never over channels."""

    handles = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")

    def fits(self, units: Units, op: Any) -> bool:
        axes, rank = units.graph.constant(op.inputs[1]), len(units.graph.shape(op.inputs[0]))
        return axes is not None and not np.any(axes % max(rank, 1) == rank - 1) and super().fits(units, op)

    def known(self, units: Units, op: Any) -> Known | None:
        if units.graph.kind(op) in ("MEAN", "SUM"):
            return zero_at_zero(units, op)
        return units.known(op.inputs[0]) if same_grid(units.graph, op) else None


class Slice(Rule):
    """A part of the positions, all channels of it."""

    handles = ("SLICE",)

    def fits(self, units: Units, op: Any) -> bool:
        return all(units.graph.is_constant(t) for t in op.inputs[1:]) and super().fits(units, op)

    def known(self, units: Units, op: Any) -> Known | None:
        return units.known(op.inputs[0]) if same_grid(units.graph, op) else None

    def cut(self, cut: Cut, op: Any) -> None:
        if cut.touches(op.outputs[0]):
            set_last(cut.graph, op, 2, int(cut.kept(op.outputs[0]).sum()))


class StridedSlice(Slice):
    """The same with steps; what adds or drops axes, or counts from the end of the channels, stays whole."""

    handles = ("STRIDED_SLICE",)

    def fits(self, units: Units, op: Any) -> bool:
        options = op.builtinOptions
        if options.ellipsisMask or options.newAxisMask or not super().fits(units, op):
            return False
        last = len(units.graph.shape(op.inputs[0])) - 1
        _, end, stride = (units.graph.constant(t) for t in op.inputs[1:4])
        if end is None or stride is None or stride.shape != (last + 1,) or stride[-1] != 1:
            return False
        return bool(end[-1] >= 0 or options.endMask >> last & 1) and not options.shrinkAxisMask >> last & 1


class Transpose(Rule):
    """Positions in another order; the channels stay last."""

    handles = ("TRANSPOSE",)

    def fits(self, units: Units, op: Any) -> bool:
        order = units.graph.constant(op.inputs[1])
        return order is not None and order[-1] == order.size - 1 and super().fits(units, op)

    def known(self, units: Units, op: Any) -> Known | None:
        return units.known(op.inputs[0]) if same_grid(units.graph, op) else None


def _tiled(part: Any, size: int) -> Any:
    return np.tile(part, size // part.size)
