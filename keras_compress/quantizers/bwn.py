"""Binary-Weight-Networks: the sign times the mean magnitude of a channel."""

from __future__ import annotations

import functools
import math
from typing import Any

import tensorflow as tf

from keras_compress.core import affine
from keras_compress.core.registry import register
from keras_compress.quantizers.formulas import clipped_identity, sign
from keras_compress.quantizers.weight_quantizer import IntegerGrid, WeightQuantizer

Tensor = Any


@functools.cache
def _grid(axes: tuple[int, ...]) -> IntegerGrid:
    def magnitude(weight: Tensor) -> Tensor:
        return tf.reduce_mean(tf.abs(weight), axis=axes, keepdims=True)

    def to_integers(weight: Tensor) -> tuple[Tensor, Tensor]:
        alpha = magnitude(weight)
        return tf.where(alpha > 0.0, sign(weight), tf.zeros_like(weight)), affine.fill_zero_scales(alpha)

    def weight_gradient(upstream: Tensor, weight: Tensor) -> Tensor:
        count = math.prod(weight.shape[axis] for axis in axes)
        return upstream * (1.0 / count + clipped_identity(weight) * magnitude(weight))

    return IntegerGrid(to_integers, weight_gradient)


@register("weight_transform")
class BWN(WeightQuantizer):
    """The sign of the weight times the mean magnitude of its output channel: the weight side of XNOR-Net too.

    **Forward** `alpha = mean|w|`, `y = alpha` where `w >= 0`, else `-alpha`.
    **Gradient** `dy/dw = 1/n + alpha` where `|w| <= 1`, else `1/n`, for a channel of n weights.

    **Levels** -1 and +1 times alpha. A channel of zeros stays zero: its integers are 0, its scale the tensor's largest.

    Args:
        per_channel: One alpha for each output channel, or one for the tensor.

    **Reference**: Rastegari et al., "XNOR-Net" (2016), equation 6 and the gradient in section 3.1.
    **Deviations**: `w = 0` counts as positive in a channel that is not all zero.
    """

    allowed_bits = (1,)
    preserves = frozenset({"codebook", "channel_codebook"})

    def __init__(self, *, per_channel: bool = True, name: str | None = None, trainable: bool = True) -> None:
        super().__init__(1, per_channel=per_channel, name=name, trainable=trainable)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"per_channel": False}]

    @property
    def storage_bits(self) -> int:
        """Signed integers of one bit have no +1."""
        return 2

    def grid(self) -> tuple[IntegerGrid, tuple[Tensor, ...]]:
        return _grid(self.reduced_axes), ()
