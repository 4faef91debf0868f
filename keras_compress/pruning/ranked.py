"""What pruners share that keep the highest of scores which are trained, as many as a schedule says."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_compress.core.schedule import Schedule
from keras_compress.core.ste import value_of
from keras_compress.pruning.pruner import Pruner
from keras_compress.pruning.search import keep_highest
from keras_compress.pruning.together import mask_together

Tensor = Any
# So much of the order of scores that are equal, as they are at first, is that of magnitudes.
_TIE = 1e-6


class RankedPruner(Pruner):
    """Keeps the highest of scores of its own; what is out may come back until the schedule ends.

    Subclasses implement `unit_scores(weight)`.
    """

    def __init__(self, schedule: Schedule, *, name: str | None = None, trainable: bool = True) -> None:
        super().__init__(schedule, regrow=True, name=name, trainable=trainable)

    def initialize(self, weight: Tensor) -> None:
        """A mask of ones: scores decide, on a weight that is sparse already too."""

    def unit_scores(self, weight: Tensor) -> Tensor:
        """Flat scores, float32."""
        raise NotImplementedError(f"{type(self).__name__} must implement `unit_scores(weight)`.")

    def mask_of(self, units: Tensor) -> Tensor:
        """The mask of the weight from the flat mask of its scores."""
        return ops.reshape(units, self.weight_shape)

    def scores(self, weight: Tensor) -> Tensor:
        return self.unit_scores(weight)

    def choose(self, scores: Tensor, sparsity: Tensor) -> Tensor:
        return self.mask_of(keep_highest(scores, sparsity))

    def update(self, weight: Tensor) -> list[tuple[keras.Variable, Tensor]]:
        mask = mask_together(self, RankedPruner, lambda pruner: True)
        return super().update(weight) if mask is None else [(self.mask, mask), (self.step, value_of(self.step) + 1)]

    def still_choosing(self) -> Tensor:
        """Whether the step that was counted last is before the schedule's end; a bool scalar."""
        if self.schedule.end_step == -1:
            return tf.constant(True)
        return value_of(self.step) <= self.schedule.end_step

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.pop("regrow")
        return config


class ScoredPruner(RankedPruner):
    """Keeps the highest of scores that are trained beside the weights: `trained_scores`, in the shape of the weight."""

    def create_variables(self) -> None:
        super().create_variables()
        self.trained_scores = self.add_weight(name="scores", shape=self.weight_shape, initializer="zeros")

    def unit_scores(self, weight: Tensor) -> Tensor:
        magnitude = tf.abs(weight)
        largest = tf.maximum(tf.reduce_max(magnitude), 1e-30)
        return tf.reshape(value_of(self.trained_scores) + _TIE * magnitude / largest, [-1])
