"""Ranges of factors, by what they do to what they are multiplied with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.calibration.minmax import MeasuredRange

# Magnitudes are counted in eighths of an octave, from 2^-32 to 2^32.
_OCTAVES, _PER_OCTAVE = 32, 8
_BINS = 2 * _OCTAVES * _PER_OCTAVE


class FactorRange(MeasuredRange):
    """A range for `1 / length` or `1 / y`, which multiply a row of values, and are of no use by themselves.

    The largest factors belong to rows that are nearly zero. One row of zeros (padding, a ReLU that is shut) gives the
    factor `1 / sqrt(epsilon)`: with a step of a 255th of that, every other row would be multiplied by 0. The upper end
    is the one with the least mean square error of the products, where

    - a row whose factor is `r`, before which stands a mean square of `1 / r^2 - epsilon`, becomes one with a mean
      square of `1 - epsilon * r^2`, and counts that much: a row of zeros does not count;
    - a factor below the end is off by the rounding, `(end / 255)^2 / 12` in the mean square, one above it is cut;
    - factors of what is smaller than half a step of its own 8 bits do not count: the device takes it for 0.

    With wider activations (16 bits) no end is worth cutting, and the range is the measured one.

    Args:
        bits: See `MeasuredRange`.
        epsilon: Added to the mean square under the root.
        root: Whether the factor is `1 / sqrt(y)`; `1 / y` otherwise.
    """

    watches = True

    def __init__(self, bits: int = 8, epsilon: float = 0.0, root: bool = True, **kwargs: Any) -> None:
        self.epsilon, self.root = float(epsilon), bool(root)
        self._weights = np.zeros(_BINS)
        super().__init__(bits, **kwargs)

    def observe(self, factors: NDArray[Any]) -> None:
        """Count the factors of some rows."""
        found = np.abs(factors[np.isfinite(factors) & (factors != 0)].astype(np.float64))
        used = np.maximum(0.0, 1.0 - self.epsilon * found**2) if self.root else np.ones_like(found)
        places = np.floor((np.log2(found) + _OCTAVES) * _PER_OCTAVE)
        places = np.clip(places, 0, _BINS - 1).astype(np.int64)
        self._weights += np.bincount(places, weights=used, minlength=_BINS)

    def set_range(self, low: float, high: float) -> None:
        """Set the range within the measured ends."""
        end = largest_of_use(self._weights, self.root) if self.bits == 8 else math.inf
        super().set_range(max(low, -end), min(high, end))


def largest_of_use(weights: NDArray[np.float64], root: bool) -> float:
    """The upper end with the least error of the products; infinite where nothing counts.

    Args:
        weights: How much the factors of each bin count.
        root: See `FactorRange`.
    """
    factors = 2.0 ** ((np.arange(_BINS) + 0.5) / _PER_OCTAVE - _OCTAVES)
    ends = 2.0 ** ((np.arange(_BINS) + 1) / _PER_OCTAVE - _OCTAVES)
    counts = weights > 1e-6 * weights.sum()
    if not counts.any():
        return math.inf
    # Half a step of 8 bits is a 510th of the largest `y`, which has the smallest factor.
    told_from_zero = factors <= factors[counts].min() * (math.sqrt(510) if root else 510)
    used = counts & told_from_zero
    factors, weights, ends = factors[used], weights[used], ends[used]
    errors = np.where(
        factors <= ends[:, None], (ends[:, None] / (255 * factors)) ** 2 / 12, (1 - ends[:, None] / factors) ** 2
    )
    return float(ends[np.argmin(errors @ weights)])
