"""The grid of an activation point on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_compress.calibration.calibrate import MeasuredRange
from keras_compress.quantizers.activation import FixedGrid, MovingAverageRange
from keras_compress.quantizers.kinds import FIXED_GRID_16

# LiteRT's kernels refuse a fused ReLU6 whose 6 is beyond int32 on its output's grid.
SMALLEST_SCALE = 3e-9


def final_grid(quantizer: Any, activation_bits: int) -> FixedGrid:
    """The grid of a point on the device: scale and zero point of an int8 or int16 tensor.

    Fewer bits than 8 keep their levels and sit at the top of int8, so that saturation is the upper clip.
    """
    if activation_bits == 16:
        if isinstance(quantizer, FixedGrid):
            return whole_grid(*FIXED_GRID_16)
        low, high = (float(end) for end in quantizer.range())
        scale = as_float32(max(max(abs(low), abs(high)) / 32767, SMALLEST_SCALE))
        # A trained range cuts what is below it, one integer above the lowest of the device.
        cuts = low < 0 and not isinstance(quantizer, MeasuredRange)
        return FixedGrid(scale, 0, bits=16) if cuts else whole_grid(scale, 0)
    if isinstance(quantizer, FixedGrid):
        return FixedGrid(quantizer.scale, quantizer.zero_point, quantizer.bits, quantizer.lowest, quantizer.rounding)
    scale, zero_point = (float(p) for p in quantizer.parameters())
    spec = quantizer.spec
    if quantizer.bits == 16:
        return FixedGrid(as_float32(max(scale, SMALLEST_SCALE)), 0, bits=16)
    shift = 127 - spec.maximum
    return FixedGrid(as_float32(max(scale, SMALLEST_SCALE)), int(zero_point) + shift, 8, spec.minimum + shift)


def ends_of(grid: FixedGrid) -> tuple[float, float]:
    """The lowest and the highest value of a grid."""
    return (grid.lowest - grid.zero_point) * grid.scale, (grid.spec.maximum - grid.zero_point) * grid.scale


def whole_grid(scale: float, zero_point: int) -> FixedGrid:
    """A grid of all integers of an int16 tensor, down to the one where kernels saturate by themselves."""
    return FixedGrid(scale, zero_point, 16, lowest=-(2**15))


def no_finer(grid: FixedGrid, step: float | None) -> FixedGrid:
    """A grid that is not finer than the sums of a weighted layer are: beyond that there is nothing but noise.

    Ranges of values that should be 0 (the mean of what was just normalized) are that small; XNNPACK refuses a factor
    of 256 from sums to outputs.

    Args:
        grid: Of the layer's outputs.
        step: One unit of its sums, input scale times weight scale.
    """
    if step is None or grid.bits != 8 or grid.scale >= step:
        return grid
    lowest = (-128 - grid.zero_point) * grid.scale
    return FixedGrid(as_float32(step), int(np.clip(np.rint(-128 - lowest / step), -128, 127)))


def only_describes(quantizer: Any) -> bool:
    """Whether an 8-bit range says what the values are, rather than what they shall be."""
    return quantizer.bits == 8 and isinstance(quantizer, (MeasuredRange, MovingAverageRange))


def as_float32(value: float) -> float:
    """A number as the file holds it."""
    return float(np.float32(value))
