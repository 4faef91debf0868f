"""Operators on one value, or on two at the same place, and the pools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from keras_compress.tflite.dead_units.rounding import Known, activation_range, limits, nearest, requantized
from keras_compress.tflite.dead_units.rule import Rule, same_grid, zero_at_zero
from keras_compress.tflite.dead_units.units import Units, grid_of, width
from keras_compress.tflite.grids import Grid

_CLAMPS = {
    "RELU": schema.ActivationFunctionType.RELU,
    "RELU6": schema.ActivationFunctionType.RELU6,
    "RELU_N1_TO_1": schema.ActivationFunctionType.RELU_N1_TO_1,
}


class Clamp(Rule):
    """What clips on one grid, or takes the largest or the mean of equal integers and then clips."""

    handles = ("MAX_POOL_2D", "AVERAGE_POOL_2D", "RESIZE_NEAREST_NEIGHBOR", *_CLAMPS)

    def known(self, units: Units, op: Any) -> Known | None:
        grid = grid_of(units.graph, op.outputs[0])
        if grid is None or not same_grid(units.graph, op):
            return None
        own = _CLAMPS.get(units.graph.kind(op), 0)
        ends = activation_range(own or getattr(op.builtinOptions, "fusedActivationFunction", 0), grid)
        return None if ends is None else units.known(op.inputs[0]).clipped(*ends)


class ZeroAtZero(Rule):
    """Functions that are 0 at 0 on every kernel; elsewhere kernels differ by one step."""

    handles = ("TANH", "HARD_SWISH", "LEAKY_RELU")

    def known(self, units: Units, op: Any) -> Known | None:
        return zero_at_zero(units, op)


class Requantize(Rule):
    """QUANTIZE between integers; XNNPACK's factor has 8 bits behind the point."""

    handles = ("QUANTIZE",)

    def known(self, units: Units, op: Any) -> Known | None:
        given, made = grid_of(units.graph, op.inputs[0]), grid_of(units.graph, op.outputs[0])
        if given is None or made is None:
            return None
        data = units.known(op.inputs[0])
        offsets = data.values - given.zero_point
        factor = np.array([given.scale / made.scale])
        found = requantized(offsets, factor, made, limits(made), margin=np.abs(offsets) * 2.0**-9)
        return found.where(data.sure)


class Binary(Rule):
    """Two inputs; a constant one is cut as the tensors are. An input of one channel is spread over all."""

    handles: ClassVar[tuple[str, ...]] = ("SQUARED_DIFFERENCE", "DIV", "PRELU")

    def fits(self, units: Units, op: Any) -> bool:
        channels = width(units.graph, op.outputs[0])
        if len(op.inputs) != 2 or not all(width(units.graph, t) in (1, channels) for t in op.inputs):
            return False
        constants = [t for t in op.inputs if units.graph.is_constant(t)]
        return all(grid_of(units.graph, t) is not None for t in constants)

    def tie(self, units: Units, op: Any) -> None:
        output = op.outputs[0]
        for tensor in op.inputs:
            if width(units.graph, tensor) == width(units.graph, output):
                units.tie(units.of(tensor), units.of(output))
                if units.graph.is_constant(tensor):
                    units.open(tensor)
            else:
                units.freeze([tensor])
        units.open(output)

    def known(self, units: Units, op: Any) -> Known | None:
        grids = [grid_of(units.graph, t) for t in (*op.inputs, op.outputs[0])]
        if grids[0] is None or grids[1] is None or grids[2] is None:
            return None
        ends = activation_range(getattr(op.builtinOptions, "fusedActivationFunction", 0), grids[2])
        channels = width(units.graph, op.outputs[0])
        if ends is None:
            return None
        first, second = (units.known(t).spread(channels) for t in op.inputs)
        return self.combined(units.graph.kind(op), Pair(first, second, (grids[0], grids[1], grids[2]), ends))

    def combined(self, kind: str, pair: Pair) -> Known | None:
        """What is known of the output."""
        return None


@dataclass(frozen=True)
class Pair:
    """What is known of two inputs, `(channels,)` each.

    Attributes:
        first, second: The inputs.
        grids: Of both and of the output.
        ends: Lowest and highest integer behind the fused activation.
    """

    first: Known
    second: Known
    grids: tuple[Grid, Grid, Grid]
    ends: tuple[int, int]

    @property
    def both(self) -> NDArray[np.bool_]:
        """Where both are known."""
        return self.first.sure & self.second.sure

    @property
    def offsets(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Distance from the zero points."""
        return self.first.values - self.grids[0].zero_point, self.second.values - self.grids[1].zero_point


class Sum(Binary):
    """Kernels bring both inputs to a finer common grid first, each with its own small error."""

    handles = ("ADD", "SUB")

    def combined(self, kind: str, pair: Pair) -> Known | None:
        made, (first, second) = pair.grids[2], (grid.scale / pair.grids[2].scale for grid in pair.grids[:2])
        # At 16 bits only what comes out whole, such as 0.
        margin = (1 + max(first, second)) / 64 if made.bits == 8 else 0.49
        real = pair.offsets[0] * first + pair.offsets[1] * second * (1 if kind == "ADD" else -1)
        return nearest(real, margin, made, pair.ends).where(pair.both)


class Product(Binary):
    """A factor of 0 decides, whatever the other is."""

    handles = ("MUL",)

    def combined(self, kind: str, pair: Pair) -> Known | None:
        first, second = pair.offsets
        zero = (pair.first.sure & (first == 0)) | (pair.second.sure & (second == 0))
        factor = np.array([pair.grids[0].scale * pair.grids[1].scale / pair.grids[2].scale])
        return requantized(np.where(zero, 0, first * second), factor, *pair.grids[2:], pair.ends).where(
            pair.both | zero
        )


class Extreme(Binary):
    """The larger or smaller of two integers of one grid."""

    handles = ("MAXIMUM", "MINIMUM")

    def combined(self, kind: str, pair: Pair) -> Known | None:
        if len(set(pair.grids)) > 1:
            return None
        chosen = (np.maximum if kind == "MAXIMUM" else np.minimum)(pair.first.values, pair.second.values)
        return Known(chosen, pair.both)
