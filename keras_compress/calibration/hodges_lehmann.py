"""Ranges from robust averages of the batches' extremes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from keras_compress.calibration.observer import Observer
from keras_compress.calibration.record import Record
from keras_compress.core.affine import QuantSpec
from keras_compress.core.registry import register


def hodges_lehmann(values: NDArray[np.float64]) -> float:
    """The median of the averages of all pairs of values, each with itself among them (Walsh averages).

    >>> hodges_lehmann(np.array([1.0, 2.0, 3.0, 100.0]))
    2.75
    """
    first, second = np.triu_indices(len(values))
    return float(np.median((values[first] + values[second]) / 2))


@register("observer")
class HodgesLehmann(Observer):
    """The Hodges-Lehmann estimate of the batches' lowest and highest value.

    As good as the mean where the extremes of batches are alike, and up to 29 % of the batches may be far off without
    moving it far.

    **Reference**: Hodges and Lehmann, "Estimates of location based on rank tests" (1963).
    """

    def range(self, record: Record, spec: QuantSpec) -> tuple[float, float]:
        return hodges_lehmann(record.lows), hodges_lehmann(record.highs)
