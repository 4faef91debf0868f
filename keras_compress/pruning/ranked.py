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

    def _chosen(self, weight: Tensor, step: Tensor) -> Tensor:
        highest = keep_highest(self.unit_scores(weight), self.schedule(step), self.unit_ties(weight))
        return self.mask_of(highest)

    def update(self, weight: Tensor) -> list[tuple[keras.Variable, Tensor]]:
        step = value_of(self.step)
        mask = mask_together(self, RankedPruner, lambda pruner: True)
        if mask is None:
            acts = self.schedule.should_update(step)
            mask = ops.cond(acts, lambda: self._chosen(weight, step), lambda: value_of(self.mask))
        return [(self.mask, mask), (self.step, step + 1)]

    def choosing(self) -> Tensor:
        """Whether the step that was counted last lies between the schedule's begin, itself too, and its end; a bool."""
        step = value_of(self.step) - 1
        begun = step >= self.schedule.begin_step
        return begun if self.schedule.end_step == -1 else begun & (step < self.schedule.end_step)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.pop("regrow")
        return config


class ScoredPruner(RankedPruner):
    """Keeps the highest of scores that are trained beside the weights: `trained_scores`, in the shape of the weight.

    Those that are equal, as they all are at first, are ranked by magnitude.
    """

    def create_variables(self) -> None:
        super().create_variables()
        self.trained_scores = self.add_weight(name="scores", shape=self.weight_shape, initializer="zeros")

    def unit_scores(self, weight: Tensor) -> Tensor:
        return tf.reshape(value_of(self.trained_scores), [-1])

    def unit_ties(self, weight: Tensor) -> Tensor:
        return tf.reshape(tf.abs(weight), [-1])
