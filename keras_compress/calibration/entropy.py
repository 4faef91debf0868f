"""Ranges whose levels keep the most of the distribution of the values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.calibration.histogram import BINS, Histogram
from keras_compress.calibration.observer import CountingObserver
from keras_compress.calibration.record import Record
from keras_compress.core.affine import QuantSpec
from keras_compress.core.registry import register

Array = NDArray[np.float64]


def divergence(counts: Array, kept: int, levels: int) -> float:
    """Kullback-Leibler divergence of magnitudes, cut behind some bins, from what a number of levels leaves of them.

    Args:
        counts: Of bins of equal width, from 0 on.
        kept: Bins in front of the cut; what lies behind is put into the last of them.
        levels: Each stands for as many bins, whose count is shared evenly by those that are not empty.

    >>> round(divergence(np.array([1.0, 0.0, 2.0, 3.0, 5.0, 3.0, 1.0, 7.0]), 8, 2), 4)
    0.1503
    """
    inside = counts[:kept]
    reference = inside.copy()
    reference[-1] += counts[kept:].sum()
    level = np.arange(kept) * levels // kept
    filled = np.bincount(level, weights=inside > 0, minlength=levels)
    mean = np.bincount(level, weights=inside, minlength=levels) / np.maximum(filled, 1)
    approximate = np.where(inside > 0, mean[level], 0.0)
    p, q = reference / reference.sum(), approximate / max(approximate.sum(), 1e-300)
    there = p > 0
    # A bin that holds nothing but what was cut has no level: it costs much, but is no reason to refuse the rest.
    return float(np.sum(p[there] * np.log(p[there] / np.maximum(q[there], 1e-10))))


@register("observer")
class Entropy(CountingObserver):
    """The cut of the magnitudes with the least Kullback-Leibler divergence between values and levels.

    Args:
        candidates: How many cuts are tried, at least 2.

    Raises:
        ValueError: For fewer.

    **Reference**: Migacz, "8-bit Inference with TensorRT" (2017). **Deviations**: values that are exactly 0 have a
    level of their own and are left out.
    """

    def __init__(self, candidates: int = 128) -> None:
        if candidates < 2:
            raise ValueError(f"Expected `candidates` of 2 or more. Received: candidates={candidates}")
        self.candidates = int(candidates)

    def ends(self, histogram: Histogram, record: Record, spec: QuantSpec) -> tuple[float, float]:
        counts = (histogram.counts[BINS:] + histogram.counts[:BINS][::-1]).astype(np.float64)
        two_sided = record.low < 0 < record.high
        levels = 2 ** (spec.bits - 1 if two_sided else spec.bits)
        last = int(np.flatnonzero(counts)[-1]) + 1
        tried = np.unique(np.linspace(min(levels, last), last, self.candidates).astype(int))
        errors = [divergence(counts, int(kept), min(levels, int(kept))) for kept in tried]
        end = float(tried[int(np.argmin(errors))] * histogram.width)
        return -end, end

    def get_config(self) -> dict[str, Any]:
        return {"candidates": self.candidates}
