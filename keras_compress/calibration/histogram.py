"""A histogram whose bins grow with the values: millions of them take no more room than a few."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

# On each side of 0. The largest magnitude is always in the outer half.
BINS = 2048
_TINY = 2.0**-100


class Histogram:
    """Counts of values in bins of one width on both sides of 0.

    Where a value lies outside, bins are put together in pairs: they begin at 0, so that no count has to be divided.

    Attributes:
        width: Of a bin, a power of two; 0 before any value but 0 was seen.
        counts: `[2 * BINS]`, the middle two around 0. What is exactly 0 is not in them.
        zeros: How many values were exactly 0.
    """

    def __init__(self) -> None:
        self.width = 0.0
        self.counts = np.zeros(2 * BINS, np.int64)
        self.zeros = 0

    def add(self, values: NDArray[Any]) -> None:
        """Count values; what is not finite is left out.

        >>> seen = Histogram()
        >>> seen.add(np.array([0.0, 1.0, -1.0, 1.5])); seen.add(np.array([100.0]))
        >>> seen.width, int(seen.counts.sum()), seen.zeros
        (0.0625, 4, 1)
        """
        flat = np.asarray(values, np.float32).ravel()
        magnitude = max(float(flat.max(initial=0.0)), -float(flat.min(initial=0.0)))
        if not math.isfinite(magnitude):
            flat = flat[np.isfinite(flat)]
            magnitude = float(np.abs(flat).max(initial=0.0))
        zeros = flat.size - int(np.count_nonzero(flat))
        self.zeros += zeros
        if magnitude == 0.0:
            return
        self._reach(magnitude)
        # A width is a power of two: where it is no subnormal number, single precision divides by it exactly.
        exact = np.float32 if self.width > _TINY else np.float64
        places = np.floor(np.divide(flat, self.width, dtype=exact)).astype(np.int64)
        places += BINS
        counts = np.bincount(np.clip(places, 0, 2 * BINS - 1, out=places), minlength=2 * BINS)
        counts[BINS] -= zeros
        self.counts += counts

    def merge(self, other: Histogram) -> None:
        """Add the counts of another one."""
        self.zeros += other.zeros
        if not other.width:
            return
        theirs = other.copy()
        wider = max(self.width, theirs.width)
        for each in (self, theirs):
            each._widen(wider)
        self.counts += theirs.counts

    def copy(self) -> Histogram:
        """Another one of the same counts."""
        made = Histogram()
        made.width, made.counts, made.zeros = self.width, self.counts.copy(), self.zeros
        return made

    @property
    def centers(self) -> NDArray[np.float64]:
        """The value in the middle of each bin."""
        return np.asarray((np.arange(2 * BINS) - BINS + 0.5) * self.width, np.float64)

    @property
    def total(self) -> int:
        """How many values were counted, zeros among them."""
        return int(self.counts.sum()) + self.zeros

    def _reach(self, magnitude: float) -> None:
        """Let the bins take a magnitude in."""
        # BINS * width is the next power of two above it.
        self._widen(2.0 ** (math.floor(math.log2(magnitude)) + 1) / BINS)

    def _widen(self, width: float) -> None:
        self.width = self.width or width
        while self.width < width:
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate([np.zeros(BINS // 2, np.int64), pairs, np.zeros(BINS // 2, np.int64)])
            self.width *= 2
