"""Ternary Weight Networks: the sign of the larger weights times their mean magnitude."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from keras_compress.core import affine
from keras_compress.core.registry import register
from keras_compress.quantizers.weight_quantizer import IntegerGrid, WeightQuantizer

Tensor = Any

THRESHOLD = 0.7


@functools.cache
def _grid(axes: tuple[int, ...]) -> IntegerGrid:
    def to_integers(weight: Tensor) -> tuple[Tensor, Tensor]:
        magnitude = tf.abs(weight)
        kept = magnitude > THRESHOLD * tf.reduce_mean(magnitude, axis=axes, keepdims=True)
        integers = tf.where(kept, tf.sign(weight), tf.zeros_like(weight))
        total = tf.reduce_sum(tf.where(kept, magnitude, tf.zeros_like(magnitude)), axis=axes, keepdims=True)
        count = tf.reduce_sum(tf.abs(integers), axis=axes, keepdims=True)
        return integers, affine.fill_zero_scales(total / tf.maximum(count, 1.0))

    return IntegerGrid(to_integers)


@register("weight_transform")
class TWN(WeightQuantizer):
    """Keeps the sign of the larger weights, times their mean magnitude; the smaller ones become 0.

    **Forward** `delta = 0.7 mean|w|`, `alpha = mean |w| over |w| > delta`; `y = alpha sign(w)` where `|w| > delta`,
    else 0. **Gradient** `dy/dw = 1` (straight through).

    **Levels** -1, 0 and +1 times alpha. A channel of zeros stays zero; its scale is the tensor's largest.

    Args:
        per_channel: One threshold and alpha for each output channel, or one for the tensor.

    **Reference**: Li and Liu, "Ternary Weight Networks" (2016), the closed form of alpha and equation 6 for delta.
    **Deviations**: the paper has one alpha for a layer, which is `per_channel=False`.
    """

    allowed_bits = (2,)

    def __init__(self, *, per_channel: bool = True, name: str | None = None, trainable: bool = True) -> None:
        super().__init__(2, per_channel=per_channel, name=name, trainable=trainable)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"per_channel": False}]

    @property
    def number_of_clusters(self) -> int:
        """Three levels for each scale."""
        return 3

    def grid(self) -> tuple[IntegerGrid, tuple[Tensor, ...]]:
        return _grid(self.reduced_axes), ()
