"""Pruning by thresholds: a multiple of the standard deviation of the weights."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_compress.core.registry import register
from keras_compress.core.schedule import ConstantSparsity, Schedule
from keras_compress.core.ste import value_of
from keras_compress.pruning.pruner import Pruner
from keras_compress.pruning.trained import not_negative

Tensor = Any


@register("weight_transform")
class ThresholdPruner(Pruner):
    """Zeroes the weights below a threshold that follows from their standard deviation ("magnitude sparsity").

    **Forward** `y = mask * w`; where the schedule acts, `mask = |w| >= q * std(w)`, one weight at least. The deviation
    is that of all weights where the schedule begins. `q` grows evenly from 0 to `quality` between the steps at which
    the schedule begins and ends; without an end it is `quality` from the start. **Gradient** see `Pruner`.

    How sparse a layer gets follows from its distribution: of normal weights `q = 1` drops 68 % at once, `q = 1.6` 89 %.

    Args:
        schedule: When to act; its sparsity does not count. `frequency` of the batches in an epoch gives a threshold
            for each epoch.
        quality: Threshold over standard deviation, the paper's quality parameter, >= 0.
        regrow: Let pruned weights come back.

    Raises:
        ValueError: For a `quality` out of range.

    **Reference**: Han et al., "Learning both weights and connections for efficient neural networks" (2015), section 3
    and section 4, last paragraph: the threshold. A threshold for each epoch: Zmora et al., Distiller's sensitivity
    pruner.
    **Deviations**: the threshold grows over the training; the paper prunes and retrains in turns. A deviation of what
    is left would run away: of weights around +-a it is a, and `q >= 1` drops all of them.
    """

    has_target = False

    def __init__(
        self,
        schedule: Schedule,
        quality: float = 1.0,
        *,
        regrow: bool = False,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(schedule, regrow=regrow, name=name, trainable=trainable)
        self.quality = not_negative("quality", quality)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [
            {"schedule": ConstantSparsity(0.0, 0, 4, 2)},
            {"schedule": ConstantSparsity(0.0, 1, frequency=1), "quality": 0.5, "regrow": True},
        ]

    def quality_at(self, step: Tensor) -> Tensor:
        """`q` at a step, a float32 scalar."""
        if self.schedule.end_step == -1:
            return tf.constant(self.quality)
        span = max(self.schedule.end_step - self.schedule.begin_step, 1)
        done = tf.cast(step - self.schedule.begin_step, tf.float32) / float(span)
        return self.quality * tf.clip_by_value(done, 0.0, 1.0)

    def create_variables(self) -> None:
        super().create_variables()
        self.deviation = self.add_weight(
            name="deviation", shape=(), initializer="zeros", trainable=False, aggregation="only_first_replica"
        )

    def update(self, weight: Tensor) -> list[tuple[keras.Variable, Tensor]]:
        step, before, known = value_of(self.step), value_of(self.mask), value_of(self.deviation)
        acts = self.schedule.should_update(step)
        deviation = tf.cond(acts & (known == 0.0), lambda: tf.math.reduce_std(weight), lambda: known)
        mask = tf.cond(acts, lambda: self._above(weight, self.quality_at(step) * deviation), lambda: before)
        return [(self.mask, mask), (self.deviation, deviation), (self.step, step + 1)]

    def _above(self, weight: Tensor, threshold: Tensor) -> Tensor:
        magnitude = self.scores(weight)
        return self.without_return(magnitude >= tf.minimum(threshold, tf.reduce_max(magnitude)))

    def summary_values(self) -> dict[str, float]:
        return {**super().summary_values(), "deviation": float(value_of(self.deviation))}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "quality": self.quality}
