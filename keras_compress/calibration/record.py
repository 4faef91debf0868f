"""What is kept of the values at a point while data are run: a few numbers, however many the data are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from keras_compress.calibration.histogram import Histogram

# Extremes of so many batches are kept; of more, those of every second, every fourth ...
MOST_BATCHES = 128


class Record:
    """Extremes of the batches, and counts of the values where they are asked for.

    Attributes:
        low: Lowest value of all.
        high: Highest value of all.
        histogram: Counts, `None` where they were not asked for.
    """

    def __init__(self, counts: bool = False) -> None:
        self.low, self.high = np.inf, -np.inf
        self.histogram = Histogram() if counts else None
        self._extremes: list[tuple[float, float]] = []
        self._seen, self._stride = 0, 1

    def add(self, low: float, high: float) -> None:
        """Take note of a batch; one without a finite value, `low > high`, has no part."""
        if low > high:
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        if self._seen % self._stride == 0:
            self._extremes.append((low, high))
        self._seen += 1
        if len(self._extremes) > MOST_BATCHES:
            self._extremes, self._stride = self._extremes[::2], 2 * self._stride

    @property
    def lows(self) -> NDArray[np.float64]:
        """Lowest value of each batch that is kept, in order."""
        return np.array([low for low, _ in self._extremes])

    @property
    def highs(self) -> NDArray[np.float64]:
        """Highest value of each, likewise."""
        return np.array([high for _, high in self._extremes])


def together(records: Sequence[Record]) -> Record:
    """One record of what several points saw that share a range."""
    if len(records) == 1:
        return records[0]
    made = Record(records[0].histogram is not None)
    for record in records:
        for low, high in zip(record.lows, record.highs, strict=True):
            made.add(float(low), float(high))
        made.low, made.high = min(made.low, record.low), max(made.high, record.high)
        if made.histogram is not None and record.histogram is not None:
            made.histogram.merge(record.histogram)
    return made
