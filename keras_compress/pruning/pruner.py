"""What all pruners share: a mask, a schedule, and the rule for gradients."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_compress.core.registry import resolve
from keras_compress.core.schedule import Schedule
from keras_compress.core.ste import value_of
from keras_compress.core.transform import WeightTransform

Tensor = Any


@tf.custom_gradient
def _masked_dense_gradient(weight: Tensor, mask: Tensor) -> tuple[Tensor, Any]:
    return tf.where(mask, weight, tf.zeros_like(weight)), lambda upstream: (upstream, None)


class Pruner(WeightTransform):
    """Multiplies the weight by a mask of zeros and ones that a schedule makes sparser.

    **Forward** `y = mask * w`. **Gradient** `dy/dw = mask`; with `regrow`, 1, so that a pruned weight goes on learning
    and may come back.

    Subclasses implement `choose(scores, sparsity)`.

    Args:
        schedule: `step -> sparsity`.
        regrow: Let pruned weights come back. Without it masks are monotone: what is zero stays zero.
    """

    promises = frozenset({"zeros"})
    preserves = frozenset({"zeros", "grid"})

    def __init__(self, schedule: Schedule, *, regrow: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.schedule = _as_schedule(schedule)
        self.regrow = bool(regrow)

    def create_variables(self) -> None:
        shared = {"trainable": False, "aggregation": "only_first_replica"}
        self.mask = self.add_weight(name="mask", shape=self.weight_shape, dtype="bool", initializer="ones", **shared)
        self.step = self.add_weight(name="step", shape=(), dtype="int64", initializer="zeros", **shared)

    def scores(self, weight: Tensor) -> Tensor:
        """How much each weight matters; pruned weights come last unless they may regrow."""
        magnitude = ops.abs(weight)
        return magnitude if self.regrow else ops.where(self.mask, magnitude, -ops.ones_like(magnitude))

    def choose(self, scores: Tensor, sparsity: Tensor) -> Tensor:
        """The new mask, bool, from scores and the sparsity to reach."""
        raise NotImplementedError(f"{type(self).__name__} must implement `choose(scores, sparsity)`.")

    def update(self, weight: Tensor) -> list[tuple[keras.Variable, Tensor]]:
        step = value_of(self.step)
        # Assigned outside the condition: an assignment inside one breaks nested scopes and distribution.
        mask = ops.cond(
            self.schedule.should_update(step),
            lambda: self.choose(self.scores(weight), self.schedule(step)),
            lambda: value_of(self.mask),
        )
        return [(self.mask, mask), (self.step, step + 1)]

    def call(self, weight: Tensor, training: bool = False) -> Tensor:
        mask = value_of(self.mask)
        if self.regrow:
            return _masked_dense_gradient(weight, mask)
        return ops.where(mask, weight, ops.zeros_like(weight))

    def sparsity(self) -> float:
        """Share of zeros in the mask now."""
        return 1.0 - float(ops.mean(ops.cast(self.mask, "float32")))

    def pending(self) -> str | None:
        step = int(self.step)
        if step == 0:
            return "pruning has not begun: no training step was made"
        if self.schedule.end_step != -1 and step <= self.schedule.end_step:
            return f"pruning stopped at step {step}, before its end_step {self.schedule.end_step}"
        return None

    def summary_values(self) -> dict[str, float]:
        return {"sparsity": self.sparsity()}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "regrow": self.regrow,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Pruner:
        config = dict(config)
        config["schedule"] = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(**config)


def _as_schedule(schedule: Any) -> Schedule:
    resolved = resolve("schedule", schedule)
    if not isinstance(resolved, Schedule):
        raise ValueError(
            "Expected a Schedule, such as PolynomialDecay(0.3, 0.9, begin_step=0, end_step=4000). "
            f"Received: {schedule!r} of type {type(schedule).__name__}"
        )
    return resolved


def keep_highest(scores: Tensor, sparsity: Tensor) -> Tensor:
    """Mask of the highest `round(n * (1 - sparsity))` scores of a flat tensor; of equal scores, the first ones.

    >>> keep_highest(ops.array([0.1, 0.4, 0.3, 0.2]), 0.5).numpy().tolist()
    [False, True, True, False]
    """
    count = scores.shape[0]
    kept = ops.cast(ops.round(float(count) * (1.0 - ops.cast(sparsity, "float64"))), "int32")
    order = tf.argsort(scores, direction="DESCENDING", stable=True)
    ranked = ops.arange(count, dtype="int32") < kept
    return tf.scatter_nd(order[:, None], ops.cast(ranked, "int32"), [count]) > 0
