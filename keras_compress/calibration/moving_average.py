"""Ranges from moving averages of the batches' extremes."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_compress.calibration.observer import Observer
from keras_compress.calibration.record import Record
from keras_compress.core.affine import QuantSpec
from keras_compress.core.registry import register


@register("observer")
class MovingAverage(Observer):
    """Averages of the batches' lowest and highest value, the last batches counting most.

    `m_t = decay m_(t-1) + (1 - decay) x_t`, divided by `1 - decay^t`, so that the first batch counts in full.

    Args:
        decay: In (0, 1).

    Raises:
        ValueError: For another decay.

    **Reference**: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference" (2018), section 3.1; bias correction as in Adam (Kingma and Ba, 2015).
    """

    def __init__(self, decay: float = 0.9) -> None:
        if not 0.0 < decay < 1.0:
            raise ValueError(f"Expected `decay` in (0, 1). Received: decay={decay}")
        self.decay = float(decay)

    def range(self, record: Record, spec: QuantSpec) -> tuple[float, float]:
        weights = self.decay ** np.arange(len(record.lows))[::-1]
        weights /= weights.sum()
        return float(weights @ record.lows), float(weights @ record.highs)

    def get_config(self) -> dict[str, Any]:
        return {"decay": self.decay}
