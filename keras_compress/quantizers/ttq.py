"""Trained Ternary Quantization: two trained levels and zero."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras import ops

from keras_compress.core import affine
from keras_compress.core.kernels import Bound, Kernel
from keras_compress.core.registry import register
from keras_compress.core.ste import compiled, value_of
from keras_compress.quantizers.weight_quantizer import WeightQuantizer

Tensor = Any


def _regions(weight: Tensor, threshold: float, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Where the weight is above the threshold, and where it is below its negative."""
    delta = threshold * tf.reduce_max(tf.abs(weight), axis=axes, keepdims=True)
    return weight > delta, weight < -delta


@functools.cache
def _kernel(threshold: float, axes: tuple[int, ...]) -> Kernel:
    def forward(weight: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        above, below = _regions(weight, threshold, axes)
        return tf.where(above, positive, tf.where(below, -negative, tf.zeros_like(weight)))

    def weight_gradient(upstream: Tensor, weight: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        above, below = _regions(weight, threshold, axes)
        return upstream * tf.where(above, positive, tf.where(below, negative, tf.ones_like(weight)))

    def state_gradients(upstream: Tensor, weight: Tensor, *levels: Tensor) -> tuple[Tensor, ...]:
        none = tf.zeros_like(upstream)
        above, below = (
            tf.reduce_sum(tf.where(region, upstream, none), axis=axes, keepdims=True)
            for region in _regions(weight, threshold, axes)
        )
        return above, -below

    return Kernel(forward, weight_gradient, state_gradients)


@functools.cache
def _initial_levels(threshold: float, axes: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """Program: the two mean magnitudes, stacked. A region without weights takes the largest one of the tensor."""

    def means(weight: Tensor) -> Tensor:
        found = []
        for region in _regions(weight, threshold, axes):
            magnitudes = tf.where(region, tf.abs(weight), tf.zeros_like(weight))
            count = tf.reduce_sum(tf.cast(region, weight.dtype), axis=axes, keepdims=True)
            found.append(tf.reduce_sum(magnitudes, axis=axes, keepdims=True) / tf.maximum(count, 1.0))
        return affine.fill_zero_scales(tf.stack(found))

    return compiled(means)


@register("weight_transform")
class TTQ(WeightQuantizer):
    """Three levels: a trained positive one, zero, and a trained negative one.

    **Forward** `delta = threshold max|w|`; `y = W_p` where `w > delta`, `-W_n` where `w < -delta`, else 0.
    **Gradient** `dL/dW_p = sum of dL/dy over w > delta`, `dL/dW_n = -(sum of dL/dy over w < -delta)`;
    `dL/dw = W_p dL/dy` where `w > delta`, `W_n dL/dy` where `w < -delta`, else `dL/dy`.

    **Levels** real numbers: `-W_n, 0, W_p`. `quantize_model` puts the uniform 8-bit grid behind them.

    W_p and W_n begin as the mean magnitude of the weights that they stand for, which makes the squared error of the
    first step smallest.

    Args:
        threshold: Share of the largest magnitude up to which weights become 0, in [0, 1).
        per_channel: Levels and threshold of its own for each output channel, or as in the paper one set for the
            tensor.

    Raises:
        ValueError: If `threshold` is out of range.

    **Reference**: Zhu et al., "Trained Ternary Quantization" (2017), equations 6 to 9.
    **Deviations**: equation 7 leaves out the minus of `dL/dW_n`. The level is `-W_n`, and training by the gradient
    without the minus would move it uphill; the authors' program has it. There W_p and W_n begin at 1.
    """

    allowed_bits = (2,)
    # A level below the threshold that the other one makes becomes 0.
    idempotent = False

    def __init__(
        self, threshold: float = 0.05, *, per_channel: bool = False, name: str | None = None, trainable: bool = True
    ) -> None:
        super().__init__(2, per_channel=per_channel, name=name, trainable=trainable)
        if not 0.0 <= threshold < 1.0:
            raise ValueError(f"Expected `threshold` in [0, 1). Received: threshold={threshold}")
        self.threshold = float(threshold)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"threshold": 0.3, "per_channel": True}]

    @property
    def storage_bits(self) -> None:
        """No integers: the levels are real numbers."""
        return

    @property
    def number_of_clusters(self) -> int:
        """Three levels."""
        return 3

    def create_variables(self) -> None:
        self.positive = self.add_weight(name="positive", shape=self.scale_shape, initializer="ones")
        self.negative = self.add_weight(name="negative", shape=self.scale_shape, initializer="ones")

    def initialize(self, weight: Tensor) -> None:
        means = _initial_levels(self.threshold, self.reduced_axes)(ops.convert_to_tensor(weight, "float32"))
        self.positive.assign(means[0])
        self.negative.assign(means[1])

    def kernel(self) -> Bound:
        return _kernel(self.threshold, self.reduced_axes), (value_of(self.positive), value_of(self.negative))

    def summary_values(self) -> dict[str, float]:
        levels = {"positive": self.positive, "negative": self.negative}
        return {f"mean_{name}_level": float(ops.mean(value_of(level))) for name, level in levels.items()}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "threshold": self.threshold}
