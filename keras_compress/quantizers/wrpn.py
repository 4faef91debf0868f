"""WRPN: wide nets of reduced precision."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from keras_compress.core.registry import register
from keras_compress.quantizers.dorefa_activation import DoReFaActivation
from keras_compress.quantizers.formulas import clipped_identity
from keras_compress.quantizers.weight_quantizer import IntegerGrid, WeightQuantizer

Tensor = Any


@functools.cache
def _grid(bits: int) -> IntegerGrid:
    highest = float(2 ** (bits - 1) - 1)

    def to_integers(weight: Tensor) -> tuple[Tensor, Tensor]:
        scale = tf.fill([1] * len(weight.shape), tf.constant(1.0 / highest, tf.float32))
        return tf.round(highest * tf.clip_by_value(weight, -1.0, 1.0)), scale

    def weight_gradient(upstream: Tensor, weight: Tensor) -> Tensor:
        return upstream * clipped_identity(weight)

    return IntegerGrid(to_integers, weight_gradient, exact=True)


@register("weight_transform")
class WRPN(WeightQuantizer):
    """Clips the weight to [-1, 1] and rounds it to evenly spaced levels there, the same ones in every layer.

    **Forward** `y = round(n * clip(w, -1, 1)) / n`, `n = 2^(bits-1) - 1`.
    **Gradient** `dy/dw = 1` where `|w| <= 1`, else 0.

    **Levels** `-n .. n`, times `1 / n`.

    Nothing follows the size of the weights: those of less than `1 / 2n` become 0. With 2 bits that is 1/2, which is
    nearly every weight of a net that was trained in floats; 4 bits leave what is beyond 0.07. A BatchNormalization
    behind each layer lets its weights grow. The paper pays for few bits with width: `kc.widen(model, 2)`.

    Args:
        bits: 2 to 8.

    Raises:
        ValueError: For bits out of range.

    **Reference**: Mishra et al., "WRPN: Wide Reduced-Precision Networks" (2017), its equations of quantized
    weights and activations.
    **Deviations**: `round` takes ties to even. Binary weights, for which the paper takes those of BWN, are `BWN`.
    """

    def __init__(self, bits: int = 4, *, name: str | None = None, trainable: bool = True) -> None:
        super().__init__(bits, per_channel=False, name=name, trainable=trainable)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"bits": 2}]

    @property
    def group_axes(self) -> tuple[int, ...] | None:
        """One scale, which no weight changes."""
        return None

    def grid(self) -> tuple[IntegerGrid, tuple[Tensor, ...]]:
        return _grid(self.bits), ()

    def get_config(self) -> dict[str, Any]:
        return {key: value for key, value in super().get_config().items() if key != "per_channel"}


@register("activation_quantizer")
class WRPNActivation(DoReFaActivation):
    """WRPN: values clipped to [0, 1], evenly rounded. The function and the gradient are DoReFa's.

    **Forward** `y = round((2^bits - 1) * clip(x, 0, 1)) / (2^bits - 1)`. **Gradient** 1 for `0 <= x <= 1`, else 0.
    **Levels** `0, 1 / (2^bits - 1), .., 1`.

    Args:
        bits: 1 to 8.

    Raises:
        ValueError: For bits out of range.

    **Reference**: Mishra et al., "WRPN: Wide Reduced-Precision Networks" (2017), its equations of quantized
    weights and activations.
    """

    def __init__(self, bits: int = 4, **kwargs: Any) -> None:
        super().__init__(bits, **kwargs)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"bits": 2}]
