"""A constraint that keeps weights in reach of a clipped gradient."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_compress.core.registry import register

Tensor = Any


@register("constraint")
class WeightClip(keras.constraints.Constraint):
    """Clips weights to `[-clip_value, clip_value]` after each step of the optimizer.

    For the `kernel_constraint` of layers whose weights a sign quantizes: beyond 1 its gradient is 0, and a weight that
    got there would never change its sign again.

    Args:
        clip_value: Largest magnitude, above 0.

    Raises:
        ValueError: If `clip_value` is not above 0.

    >>> WeightClip(0.5)(ops.array([-2.0, 0.25, 1.0])).numpy().tolist()
    [-0.5, 0.25, 0.5]

    **Reference**: Courbariaux, Bengio and David, "BinaryConnect" (2015), section 2.4.
    """

    def __init__(self, clip_value: float = 1.0) -> None:
        if not clip_value > 0.0:
            raise ValueError(f"Expected `clip_value` above 0. Received: clip_value={clip_value}")
        self.clip_value = float(clip_value)

    def __call__(self, w: Tensor) -> Tensor:
        """The clipped weights."""
        return ops.clip(w, -self.clip_value, self.clip_value)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"clip_value": self.clip_value}
