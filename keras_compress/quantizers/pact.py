"""PACT: a clipped ReLU whose upper end is trained."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_compress.core import affine
from keras_compress.core.context import first_time_in_call
from keras_compress.core.registry import register
from keras_compress.core.ste import compiled
from keras_compress.quantizers.formulas import pact_gradients
from keras_compress.quantizers.learned_scale import SMALLEST, LearnedScale, scale_of

Tensor = Any
# The clips that the first batch tries are this many equal parts of its maximum.
CANDIDATES = 32


def _backward(values: Tensor, alpha: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    of_values, of_each = pact_gradients(upstream, values, tf.maximum(alpha, SMALLEST), signed=False)
    return of_values, tf.reduce_sum(of_each)


@functools.cache
def _best_clip(spec: affine.QuantSpec) -> Callable[[Tensor], Tensor]:
    """Compiled `values -> the clip that rounds them with the least squared error`."""
    levels = spec.maximum - spec.minimum

    def best(values: Tensor) -> Tensor:
        positive = tf.maximum(values, 0.0)
        candidates = tf.reduce_max(positive) * (tf.range(1, CANDIDATES + 1, dtype="float32") / CANDIDATES)

        def error(alpha: Tensor) -> Tensor:
            rounded = affine.fake_quantize(positive, scale_of(alpha, levels), float(spec.minimum), spec)
            return tf.reduce_sum(tf.square(rounded - positive))

        return candidates[tf.argmin(tf.map_fn(error, candidates))]

    return compiled(best)


_gradients = compiled(_backward)


@register("activation_quantizer")
class Pact(LearnedScale):
    """PACT: values between 0 and a trained clip `alpha`, evenly rounded.

    **Forward** `y = clip(x, 0, alpha)`, `y_q = round(y * (2^bits - 1) / alpha) * alpha / (2^bits - 1)`.
    **Gradient** `dy_q/dx` is 1 for `0 <= x < alpha`, else 0; `dy_q/dalpha` is 1 for `x >= alpha`, else 0.
    **Levels** `0, alpha / (2^bits - 1), .., alpha`.

    Args:
        bits: 1 to 8.
        alpha: First value of the clip, positive. `None`: the first training batch sets it, to the one of 32 equal
            parts of its maximum that rounds the batch with the least squared error. That suits a model already
            trained, whose values a constant would cut, or leave in the lowest few levels.
        regularization: `lambda` of the loss `lambda * alpha^2`, which is added while training.

    Raises:
        ValueError: For arguments out of range.

    **Reference**: Choi et al., "PACT: Parameterized Clipping Activation for Quantized Neural Networks" (2018),
    equations 1-3 and the L2 regularizer of section 3.
    **Deviations**: The paper starts from a large constant and trains from scratch. The default `regularization`, 2e-4,
    is a usual weight decay for small residual networks on CIFAR-10; like a weight decay it is to be tuned.
    """

    non_negative = True
    learned_name = "alpha"

    def __init__(self, bits: int = 4, alpha: float | None = None, regularization: float = 2e-4, **kwargs: Any) -> None:
        if alpha is not None and not alpha > 0:
            raise ValueError(f"Expected `alpha` > 0, or None. Received: alpha={alpha}")
        if not regularization >= 0:
            raise ValueError(f"Expected `regularization` >= 0. Received: regularization={regularization}")
        self.start = None if alpha is None else float(alpha)
        self.regularization = float(regularization)
        super().__init__(bits, **kwargs)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"bits": 2, "alpha": 6.0}]

    @property
    def alpha(self) -> keras.Variable:
        """The clip."""
        return self.learned

    @property
    def divisor(self) -> int:
        return int(2**self.bits - 1)

    def first_value(self, values: Tensor) -> Tensor:
        return _best_clip(self.spec)(values)

    def backward(self) -> Callable[..., tuple[Tensor, Tensor]]:
        gradients: Callable[..., tuple[Tensor, Tensor]] = _gradients
        return gradients

    def penalize(self, learned: Tensor) -> None:
        if self.trainable and self.regularization and first_time_in_call(self):
            self.add_loss(self.regularization * ops.square(learned))

    def set_range(self, low: float, high: float) -> None:
        self.set_learned(high)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.start, "regularization": self.regularization}
