"""PDP: soft masks that follow from the weights alone."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.core import kernels
from keras_compress.core.registry import register
from keras_compress.core.schedule import ConstantSparsity, PolynomialDecay, Schedule
from keras_compress.core.ste import value_of
from keras_compress.pruning.pruner import MASK
from keras_compress.pruning.ranked import RankedPruner
from keras_compress.pruning.trained import IN_TRAINING, positive

Tensor = Any


@functools.cache
def _kernel(temperature: float) -> kernels.Kernel:
    def soft(weight: Tensor, threshold: Tensor) -> Tensor:
        # softmax([t^2, w^2] / temperature), its second entry.
        return tf.sigmoid((tf.square(weight) - tf.square(threshold)) / temperature)

    def forward(weight: Tensor, threshold: Tensor, mask: Tensor, softly: Tensor) -> Tensor:
        return weight * tf.where(softly, soft(weight, threshold), tf.cast(mask, weight.dtype))

    def weight_gradient(upstream: Tensor, weight: Tensor, threshold: Tensor, mask: Tensor, softly: Tensor) -> Tensor:
        m = soft(weight, threshold)
        slope = m + 2.0 * tf.square(weight) / temperature * m * (1.0 - m)
        return upstream * tf.where(softly, slope, tf.cast(mask, weight.dtype))

    return kernels.Kernel(forward, weight_gradient, **IN_TRAINING)


def threshold_between(weight: Tensor, mask: Tensor) -> Tensor:
    """`(min |w| of what the mask keeps + max |w| of what it drops) / 2`; 0 where it drops nothing.

    >>> float(threshold_between(tf.constant([0.5, -0.2, 0.1]), tf.constant([True, False, False])))
    0.3499999940395355
    """
    magnitude = tf.abs(weight)
    lowest = tf.reduce_min(tf.where(mask, magnitude, np.inf))
    highest = tf.reduce_max(tf.where(mask, 0.0, magnitude))
    return tf.where(tf.reduce_all(mask), 0.0, 0.5 * (lowest + highest))


@register("weight_transform")
class PdpPruner(RankedPruner):
    """Multiplies each weight by a soft mask that grows with its distance from a threshold, until the schedule ends.

    **Forward** In training `y = m(w) w`, `m(w) = sigmoid((w^2 - t^2) / temperature)`, which is
    `softmax([t^2, w^2] / temperature)`, with `t = (min |W_h| + max |W_l|) / 2` halfway between the
    `round(n * (1 - sparsity))` largest weights `W_h` and the others `W_l`. In inference, and behind the schedule's end,
    `y = w` for `W_h`, else 0.
    **Gradient** `dy/dw = m + w dm/dw = m + 2 w^2 m (1 - m) / temperature` in training; behind the end the mask.

    Nothing is trained but the weights, and no loss is added.

    Args:
        schedule: `step -> sparsity`. The paper's rises evenly, `PolynomialDecay(..., power=1)`, after some training
            without pruning.
        temperature: Of the masks, > 0, in squares of weights.

    Raises:
        ValueError: For a temperature that is not positive.

    **Reference**: Cho, Adya and Naik, "PDP: Parameter-free differentiable pruning is all you need" (2023), algorithm 1.
    **Deviations**: `t` is found anew where the schedule acts, not in each step: `frequency=1` is the paper's.
    """

    draws = True

    def __init__(
        self, schedule: Schedule, *, temperature: float = 1e-4, name: str | None = None, trainable: bool = True
    ) -> None:
        super().__init__(schedule, name=name, trainable=trainable)
        self.temperature = positive("temperature", temperature)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [
            {"schedule": PolynomialDecay(0.25, 0.75, begin_step=0, end_step=4, frequency=2)},
            {"schedule": ConstantSparsity(0.5, begin_step=0, frequency=1), "temperature": 0.01},
        ]

    def create_variables(self) -> None:
        super().create_variables()
        self.threshold = self.add_weight(
            name="threshold", shape=(), initializer="zeros", trainable=False, aggregation="only_first_replica"
        )

    def unit_scores(self, weight: Tensor) -> Tensor:
        return tf.reshape(tf.abs(weight), [-1])

    def update(self, weight: Tensor) -> list[tuple[keras.Variable, Tensor]]:
        pairs = super().update(weight)
        mask = pairs[0][1]
        acts = self.schedule.should_update(value_of(self.step))
        before = value_of(self.threshold)
        threshold = tf.cond(acts, lambda: threshold_between(weight, mask), lambda: before)
        return [*pairs, (self.threshold, threshold)]

    def kernel(self) -> kernels.Bound:
        return MASK, (value_of(self.mask),)

    def call(self, weight: Tensor, training: bool = False) -> Tensor:
        if not (training and self.trainable):
            return kernels.run([self.kernel()], weight)
        # Before the first ranking nothing is dropped.
        softly = self.choosing() & (value_of(self.threshold) > 0.0)
        state = (value_of(self.threshold), value_of(self.mask), softly)
        return kernels.run([(_kernel(self.temperature), state)], weight)

    def summary_values(self) -> dict[str, float]:
        return {**super().summary_values(), "threshold": float(value_of(self.threshold))}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}
