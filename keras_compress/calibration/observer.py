"""From what was seen at a point to the range that it gets."""

from __future__ import annotations

from typing import Any

from keras_compress.calibration.histogram import Histogram
from keras_compress.calibration.record import Record
from keras_compress.core.affine import QuantSpec
from keras_compress.core.registry import resolve


class Observer:
    """A rule for ranges. Subclasses implement `range`, and register under `"observer"`.

    Class attributes:
        counts: Whether it needs a histogram of the values; extremes of the batches are always there.
    """

    counts: bool = False

    def range(self, record: Record, spec: QuantSpec) -> tuple[float, float]:
        """`(low, high)`, before 0.0 is included.

        Args:
            record: What was seen, at least one finite value.
            spec: Integers that the range will have.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `range(record, spec)`.")

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {}


class CountingObserver(Observer):
    """An observer that chooses ends within the extremes, by the counts of the values.

    Subclasses implement `ends`. Bins are too coarse for 16 bits, where no end is worth cutting: the range is the
    measured one then, as it is where all values are 0.
    """

    counts = True

    def range(self, record: Record, spec: QuantSpec) -> tuple[float, float]:
        histogram = record.histogram
        if spec.bits > 8 or histogram is None or not histogram.counts.any():
            return record.low, record.high
        low, high = self.ends(histogram, record, spec)
        return max(record.low, low), min(record.high, high)

    def ends(self, histogram: Histogram, record: Record, spec: QuantSpec) -> tuple[float, float]:
        """`(low, high)`; beyond the extremes they are cut."""
        raise NotImplementedError(f"{type(self).__name__} must implement `ends(histogram, record, spec)`.")


def observer_of(identifier: Any) -> Observer:
    """An observer from its name (`"mse"`), configuration, or an object.

    Raises:
        ValueError: For anything else.
    """
    made = resolve("observer", identifier)
    if not isinstance(made, Observer):
        raise ValueError(f"Expected an observer, such as 'mse' or Percentile(99.9). Received: {identifier!r}")
    return made
