"""Ranges of the least mean square error of the values themselves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from keras_compress.calibration.histogram import Histogram
from keras_compress.calibration.observer import CountingObserver
from keras_compress.calibration.record import Record
from keras_compress.core.affine import QuantSpec, affine_parameters, fake_quantize
from keras_compress.core.registry import register

Array = NDArray[np.float64]
_SHARES = np.concatenate([np.geomspace(0.02, 0.3, 16), np.linspace(0.32, 1.0, 35)])


@register("observer")
class Mse(CountingObserver):
    """The ends between which rounding and cutting together cost the least.

    First both ends are drawn in together, then each by itself.
    """

    def ends(self, histogram: Histogram, record: Record, spec: QuantSpec) -> tuple[float, float]:
        values, counts = histogram.centers, histogram.counts.astype(np.float64)
        values, counts = values[counts > 0], counts[counts > 0]
        low, high = record.low, record.high
        best = _best(_SHARES * low, _SHARES * high, values, counts, spec)
        if low < 0 < high:
            best = _best(np.full(len(_SHARES), best[0]), _SHARES * high, values, counts, spec)
            best = _best(_SHARES * low, np.full(len(_SHARES), best[1]), values, counts, spec)
        return best


def _best(lows: Array, highs: Array, values: Array, counts: Array, spec: QuantSpec) -> tuple[float, float]:
    best = int(np.argmin(square_errors(values, counts, lows, highs, spec)))
    return float(lows[best]), float(highs[best])


def square_errors(values: Array, counts: Array, lows: Array, highs: Array, spec: QuantSpec) -> Array:
    """Sum of the square errors of rounding some values, for each of some ranges.

    Args:
        values: Different values.
        counts: How often each occurs.
        lows: Lower ends of the ranges, before 0 is included.
        highs: Upper ends.
        spec: Integers of the ranges.

    >>> spec = QuantSpec(bits=2, symmetric=False, narrow_range=False)
    >>> values, counts = np.array([1.0, 2.5, 5.0]), np.array([1.0, 2.0, 1.0])
    >>> square_errors(values, counts, np.zeros(2), np.array([3.0, 6.0]), spec).tolist()
    [4.5, 2.5]
    """
    scale, zero_point = (np.asarray(each)[:, np.newaxis] for each in affine_parameters(lows, highs, spec))
    rounded = np.asarray(fake_quantize(values[np.newaxis], scale, zero_point, spec))
    return np.asarray(np.square(rounded - values) @ counts)
