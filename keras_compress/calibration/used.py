"""Ranges of factors, by what they do to what they are multiplied with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.calibration.calibrate import MeasuredRange

# Magnitudes are counted in eighths of an octave, from 2^-32 to 2^32.
_OCTAVES, _PER_OCTAVE = 32, 8
_BINS = 2 * _OCTAVES * _PER_OCTAVE
# Half steps of 8 bits.
_STEPS = 510.0


class FactorRange(MeasuredRange):
    """A range for `1 / length` or `1 / y`, which multiply a row of values, and are of no use by themselves.

    The largest factors belong to what is nearly zero. One row of zeros (padding, a ReLU that is shut) gives the factor
    `1 / sqrt(epsilon)`: with a step of a 255th of that, every other row would be multiplied by 0. The upper end is the
    one with the least mean square error of the products, of which each factor's are known:

    - a row of zeros makes products of 0, and does not count;
    - a factor below the end is off by the rounding, `(end / 255)^2 / 12` in the mean square, one above it is cut;
    - what is smaller than half a step of its own 8 bits is 0 for the device, which takes the end for its factor: as
      good as any for `1 / length`, where the row itself is mostly 0 then, but what counts for `1 / y`.

    With wider activations (16 bits) no end is worth cutting, and the range is the measured one.

    Args:
        bits: See `MeasuredRange`.
        root: Whether the factor is `1 / sqrt(y)`; `1 / y` otherwise.
    """

    watches = weighs = True

    def __init__(self, bits: int = 8, root: bool = True, **kwargs: Any) -> None:
        self.root = bool(root)
        self._weights = np.zeros(_BINS)
        self._measured = (0.0, 0.0)
        self._steps = _STEPS
        super().__init__(bits, **kwargs)

    def seen(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The factors that were counted, in the middle of their bins, and how much those of each bin weigh."""
        counted = self._weights > 0
        return _middles()[counted], self._weights[counted]

    def tell_finer(self, times: float) -> None:
        """Set the range anew: the device tells so many times smaller `y` from 0."""
        self._steps = _STEPS * times
        self.set_range(*self._measured)

    def observe(self, values: NDArray[Any], squares: NDArray[Any]) -> None:
        """Count some factors."""
        taken = np.isfinite(values) & (values != 0) & np.isfinite(squares)
        places = np.floor((np.log2(np.abs(values[taken].astype(np.float64))) + _OCTAVES) * _PER_OCTAVE)
        places = np.clip(places, 0, _BINS - 1).astype(np.int64)
        self._weights += np.bincount(places, weights=squares[taken], minlength=_BINS)

    def set_range(self, low: float, high: float) -> None:
        """Set the range within the measured ends."""
        # Later on it may be set within what it is then.
        self._measured = min(low, self._measured[0]), max(high, self._measured[1])
        end = largest_of_use(self._weights, self.root, self._steps) if self.bits == 8 else math.inf
        super().set_range(max(low, -end), min(high, end))


def _middles() -> NDArray[np.float64]:
    """The factor in the middle of each bin."""
    return np.exp2((np.arange(_BINS) + 0.5) / _PER_OCTAVE - _OCTAVES)


def largest_of_use(weights: NDArray[np.float64], root: bool, steps: float = _STEPS) -> float:
    """The upper end with the least error of the products; infinite where nothing counts.

    Args:
        weights: How much the factors of each bin count.
        root: See `FactorRange`.
        steps: Half steps in the largest `y`: what is smaller than one of them is 0 for the device.
    """
    factors = _middles()
    ends = 2.0 ** ((np.arange(_BINS) + 1) / _PER_OCTAVE - _OCTAVES)
    counts = weights > 1e-6 * weights.sum()
    if not counts.any():
        return math.inf
    # The largest `y` has the smallest factor.
    zero = factors > factors[counts].min() * (math.sqrt(steps) if root else steps)
    used = counts & ~zero if root else counts
    factors, weights, ends, zero = factors[used], weights[used], ends[used], zero[used]
    rounded = (ends[:, None] / (255 * factors)) ** 2 / 12
    at_end = (1 - ends[:, None] / factors) ** 2
    errors = np.where((factors <= ends[:, None]) & ~zero, rounded, at_end)
    return float(ends[np.argmin(errors @ weights)])
