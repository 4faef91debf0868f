"""Ternary weights without a scale."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from keras_compress.core.registry import register
from keras_compress.quantizers.formulas import clipped_identity
from keras_compress.quantizers.weight_quantizer import IntegerGrid, WeightQuantizer

Tensor = Any


@functools.cache
def _grid(threshold: float) -> IntegerGrid:
    def to_integers(weight: Tensor) -> tuple[Tensor, Tensor]:
        kept = tf.cast(tf.abs(weight) > threshold, weight.dtype)
        return tf.sign(weight) * kept, tf.ones([1] * len(weight.shape))

    return IntegerGrid(to_integers, lambda upstream, weight: upstream * clipped_identity(weight), exact=True)


@register("weight_transform")
class SteTern(WeightQuantizer):
    """+1, 0 and -1 by a fixed threshold; what binary layers have, and a zero.

    **Forward** `y = sign(w)` where `|w| > threshold`, else 0. **Gradient** `dy/dw = 1` where `|w| <= 1`, else 0.

    **Levels** -1, 0, 1.

    Args:
        threshold: In [0, 1).

    Raises:
        ValueError: For a threshold out of range.

    >>> quantizer = SteTern()
    >>> quantizer.prepare((4,), ())
    >>> quantizer(tf.constant([-0.7, -0.05, 0.02, 0.06])).numpy().tolist()
    [-1.0, -0.0, 0.0, 1.0]

    **Reference**: Li, Zhang and Liu, "Ternary Weight Networks" (2016), equation 3, with a threshold that is given.
    """

    allowed_bits = (2,)

    def __init__(self, threshold: float = 0.05, *, name: str | None = None, trainable: bool = True) -> None:
        super().__init__(2, per_channel=False, name=name, trainable=trainable)
        if not 0.0 <= threshold < 1.0:
            raise ValueError(f"Expected `threshold` in [0, 1). Received: threshold={threshold}")
        self.threshold = float(threshold)

    @property
    def group_axes(self) -> None:
        """One scale, 1."""
        return

    @property
    def number_of_clusters(self) -> int:
        """Most distinct values."""
        return 3

    def grid(self) -> tuple[IntegerGrid, tuple[Tensor, ...]]:
        return _grid(self.threshold), ()

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "trainable": self.trainable, "threshold": self.threshold}
