"""Hyperbolic tangents of small values, to which the grid of their kernels is coarse."""

from __future__ import annotations

import math

from keras_compress.convert.final_grid import as_float32, ends_of
from keras_compress.quantizers.activation import FixedGrid
from keras_compress.quantizers.kinds import FIXED_GRIDS

# Steps of a grid of their own that one of the kernel's is wide, from where on they are worth a table: it is three
# operators in place of one.
LEAST_FINER = 3.0


def tanh_grid(grid: FixedGrid | None) -> FixedGrid | None:
    """A grid of 8 bits for what tanh makes of all values of another one; `None` where the kernel's 1/128 will do.

    States that have just begun, and candidates that are all of one sign, take few of the kernel's 256 values.

    Args:
        grid: Of the input, 8 bits; `None` where it is not known.
    """
    if grid is None or grid.bits != 8:
        return None
    low, high = (math.tanh(end) for end in ends_of(grid))
    step = (high - low) / 255
    if step * LEAST_FINER > FIXED_GRIDS["tanh"][0]:
        return None
    return FixedGrid(as_float32(step), round(-128 - low / step))
