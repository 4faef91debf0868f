"""STR: a soft threshold for each weight tensor, trained."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_compress.core.kernels import Bound, Kernel
from keras_compress.core.noise import SMALL
from keras_compress.core.registry import register
from keras_compress.core.ste import value_of
from keras_compress.pruning.trained import TrainedPruner, finite, not_negative, positive

Tensor = Any


def _forward(weight: Tensor, trained: Tensor, threshold: Tensor) -> Tensor:
    magnitude = tf.abs(weight)
    return tf.where(magnitude > threshold, tf.sign(weight) * (magnitude - threshold), tf.zeros_like(weight))


def _above(values: Tensor, weight: Tensor, trained: Tensor, threshold: Tensor) -> Tensor:
    return tf.where(tf.abs(weight) > threshold, values, tf.zeros_like(values))


def _s_gradient(upstream: Tensor, weight: Tensor, trained: Tensor, threshold: Tensor) -> tuple[Tensor, None]:
    total = tf.reduce_sum(_above(upstream * tf.sign(weight), weight, trained, threshold))
    return -threshold * (1.0 - threshold) * total, None


_KERNEL = Kernel(_forward, _above, _s_gradient, exact=True, any_shape=True, small=SMALL)


@tf.custom_gradient
def _square(trained: Tensor, s: Tensor) -> tuple[Tensor, Any]:
    return tf.square(s), lambda upstream: (2.0 * upstream * s, None)


@register("weight_transform")
class StrPruner(TrainedPruner):
    """Draws each weight to zero by a trained threshold, and those below it to zero itself.

    **Forward** `y = sign(w) max(|w| - g(s), 0)`, `g` the sigmoid, one trained `s` for the tensor.
    **Loss** `weight_decay / 2 * s^2`: it draws `s` up from its first value, towards the threshold `g(0) = 1/2`.
    **Gradient** `dy/dw = 1` where `|w| > g(s)`, else 0; `dL/ds = -g'(s) * sum of sign(w) dL/dy over |w| > g(s)`.

    The trained number is `s / rate`, with the gradient of `s`: SGD moves `s` `rate` times as far as a weight of the
    same gradient, and so does Adam, for which the size of a gradient does not count.

    How sparse each layer gets follows from both numbers and the weights' own decay, without which they would grow as
    fast as their threshold; there is no target.

    Args:
        weight_decay: Of `s`, >= 0; the paper gives `s` the weights' own, some 1e-5 to 5e-4, in trainings of 100 epochs.
        rate: How many times as fast as weights `s` is trained, > 0; 1 is the paper's.
        initial_s: First `s`, < 0.

    Raises:
        ValueError: For arguments out of range.

    **Reference**: Kusupati et al., "Soft threshold weight reparameterization for learnable sparsity" (2020), equations
    4 to 7, algorithm 1.
    **Deviations**: The paper begins at -3200 with SGD and a learning rate of 0.256, and trains `s` as the weights. Adam
    moves `s` by its rate in each step, however large the gradient is: the default begins where it arrives in a few
    hundred steps of 0.001.
    """

    def __init__(
        self,
        weight_decay: float = 1e-2,
        *,
        rate: float = 10.0,
        initial_s: float = -8.0,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(name=name, trainable=trainable)
        self.weight_decay = not_negative("weight_decay", weight_decay)
        self.rate = positive("rate", rate)
        self.initial_s = finite("initial_s", initial_s, "< 0")
        if not self.initial_s < 0.0:
            raise ValueError(f"Expected `initial_s` < 0. Received: initial_s={initial_s!r}")

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{"weight_decay": 1e-3, "rate": 2.0, "initial_s": -1.0}]

    def create_variables(self) -> None:
        super().create_variables()
        self.trained = self.add_weight(name="s_over_rate", shape=(), initializer="zeros")

    def initialize(self, weight: Tensor) -> None:
        self.trained.assign(self.initial_s / self.rate)

    @property
    def s(self) -> Tensor:
        """`s` now; no gradient goes through it."""
        return self.rate * tf.stop_gradient(value_of(self.trained))

    def kernel(self) -> Bound:
        return _KERNEL, (value_of(self.trained), tf.sigmoid(self.s))

    def penalty(self, weight: Tensor, common: Any) -> Tensor:
        """`weight_decay / 2 * s^2`."""
        return 0.5 * self.weight_decay * _square(value_of(self.trained), self.s)

    def threshold(self) -> float:
        """`g(s)`, up to which magnitudes become zero."""
        return float(tf.sigmoid(self.s))

    def summary_values(self) -> dict[str, float]:
        return {"threshold": self.threshold()}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "weight_decay": self.weight_decay,
            "rate": self.rate,
            "initial_s": self.initial_s,
        }
