"""Ranges from the lowest to the highest value."""

from __future__ import annotations

from keras_compress.calibration.observer import Observer
from keras_compress.calibration.record import Record
from keras_compress.core.affine import QuantSpec
from keras_compress.core.registry import register


@register("observer")
class MinMax(Observer):
    """The lowest and highest value of all data: nothing is cut, and one outlier makes all steps wide."""

    def range(self, record: Record, spec: QuantSpec) -> tuple[float, float]:
        return record.low, record.high
