"""Constants that integer kernels compute: only those on which all kernels must agree."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from keras_compress.tflite.grids import Grid
from keras_compress.tflite.multiplier import multiplier_of, round_once, round_twice

# Kernels that compute in float32 take a rounded factor and round the product: together less than this part.
_FLOAT_ERROR = 2.0**-21
_MOST = 2.0**31
# As close as this to a half, an end of a clamp may be rounded either way.
_HALF = 1e-4


class Known(NamedTuple):
    """Integers that places on a last axis hold for every input and at every position.

    Attributes:
        values: `(channels,)`; arbitrary where not known.
        sure: `(channels,)`, whether the value is known.
    """

    values: NDArray[np.int64]
    sure: NDArray[np.bool_]

    @classmethod
    def nothing(cls, channels: int) -> Known:
        """No place is known."""
        return cls(np.zeros(channels, np.int64), np.zeros(channels, bool))

    def where(self, also: Any) -> Known:
        """Known only where `also` holds too."""
        return Known(self.values, self.sure & also)

    def spread(self, channels: int) -> Known:
        """One channel for all, or each for itself."""
        return Known(np.broadcast_to(self.values, channels), np.broadcast_to(self.sure, channels))

    def clipped(self, low: int, high: int) -> Known:
        """The values behind a clamp."""
        return Known(np.clip(self.values, low, high), self.sure)


def activation_range(fused: int, grid: Grid) -> tuple[int, int] | None:
    """Lowest and highest integer behind a fused activation, or None for one without an integer clamp."""
    kinds = schema.ActivationFunctionType
    ends = {
        kinds.NONE: (-np.inf, np.inf),
        kinds.RELU: (0.0, np.inf),
        kinds.RELU6: (0.0, 6.0),
        kinds.RELU_N1_TO_1: (-1.0, 1.0),
    }.get(fused)
    if ends is None:
        return None
    if any(abs(abs(end) / grid.scale % 1 - 0.5) < _HALF for end in ends if np.isfinite(end)):
        return None  # kernels may differ in where they clip
    low, high = np.clip(np.rint(np.array(ends) / grid.scale) + grid.zero_point, *limits(grid))
    return int(low), int(high)


def limits(grid: Grid) -> tuple[int, int]:
    """Lowest and highest integer of the grid's type."""
    return -(2 ** (grid.bits - 1)), 2 ** (grid.bits - 1) - 1


def nearest(real: NDArray[np.float64], margin: Any, grid: Grid, ends: tuple[int, int]) -> Known:
    """Values in steps of the grid, brought to its integers; known where an error of `margin` steps changes nothing."""
    first, last = (
        np.clip(np.floor(real + side * margin + 0.5) + grid.zero_point, *ends).astype(np.int64) for side in (-1, 1)
    )
    return Known(first, first == last)


def requantized(
    sums: NDArray[np.int64], factor: NDArray[np.float64], grid: Grid, ends: tuple[int, int], margin: Any = 0.0
) -> Known:
    """Sums of products brought to the output's grid, as every kernel rounds them.

    LiteRT rounds once, TFLite-Micro twice, XNNPACK in float32; sums of 64 bits get a factor of 15 bits. What depends
    on the kernel is not known.

    Args:
        sums: `(channels,)`.
        factor: Input scale times weight scale over output scale, `(channels,)` or `(1,)`.
        grid: Of the output.
        ends: Lowest and highest integer behind the fused activation.
        margin: Further error of a kernel, in steps of the output.
    """
    q, e = (np.broadcast_to(part, sums.shape) for part in multiplier_of(factor))
    fits = (np.abs(sums) * 2.0 ** np.maximum(e, 0) < _MOST) & (np.abs(e) < 31)
    sums, factor, e = np.where(fits, sums, 0), np.where(fits, factor, 1.0), np.where(fits, e, 0)
    real = sums * factor
    found = nearest(real, margin + np.abs(real) * _FLOAT_ERROR, grid, ends)
    rounded = [round_twice(sums, factor), round_once(sums, factor)]
    if grid.bits == 16:
        short = np.minimum((q + (1 << 15)) >> 16, 0x7FFF)
        rounded.append((sums * short + (1 << np.maximum(14 - e, 0))) >> np.maximum(15 - e, 0))
        fits = fits & (e < 14)
    for other in rounded:
        fits = fits & (np.clip(other + grid.zero_point, *ends) == found.values)
    return found.where(fits)
