"""Ranges that leave out a share of the values at each end."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_compress.calibration.histogram import BINS, Histogram
from keras_compress.calibration.observer import CountingObserver
from keras_compress.calibration.record import Record
from keras_compress.core.affine import QuantSpec
from keras_compress.core.registry import register


@register("observer")
class Percentile(CountingObserver):
    """From the `100 - percentile`-th to the `percentile`-th percentile of the values, read off a histogram.

    Args:
        percentile: Above 50, at most 100, which is `MinMax`.

    Raises:
        ValueError: For another percentile.
    """

    def __init__(self, percentile: float = 99.99) -> None:
        if not 50.0 < percentile <= 100.0:
            raise ValueError(f"Expected `percentile` above 50 and at most 100. Received: percentile={percentile}")
        self.percentile = float(percentile)

    def ends(self, histogram: Histogram, record: Record, spec: QuantSpec) -> tuple[float, float]:
        if self.percentile == 100.0:
            return record.low, record.high
        edges = (np.arange(2 * BINS + 1) - BINS) * histogram.width
        # Zeros stand at an edge: a step in the sum of the counts.
        below = np.concatenate([[0], np.cumsum(histogram.counts)]).astype(np.float64)
        below = np.concatenate([below[: BINS + 1], below[BINS:] + histogram.zeros])
        edges = np.concatenate([edges[: BINS + 1], edges[BINS:]])
        wanted = np.array([100.0 - self.percentile, self.percentile]) / 100.0 * histogram.total
        # Equal sums are no places to read off.
        rises = np.concatenate([[True], np.diff(below) > 0])
        low, high = np.interp(wanted, below[rises], edges[rises])
        return float(low), float(high)

    def get_config(self) -> dict[str, Any]:
        return {"percentile": self.percentile}
