"""What all pruners share: a mask, a schedule, and the rule for gradients."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_compress.core.context import counter
from keras_compress.core.existing import existing
from keras_compress.core.kernels import Bound, Kernel
from keras_compress.core.registry import resolve
from keras_compress.core.schedule import Schedule
from keras_compress.core.ste import value_of
from keras_compress.core.transform import WeightTransform

Tensor = Any
# The schedule where none is given.
HALF = {"class_name": "ConstantSparsity", "config": {"target_sparsity": 0.5, "begin_step": 0}}


def _masked(weight: Tensor, mask: Tensor) -> Tensor:
    # Half the time of a selection. A negative weight becomes -0.0, which counts as zero everywhere.
    return weight * tf.cast(mask, weight.dtype)


def _masked_gradient(upstream: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    return _masked(upstream, mask)


MASK = Kernel(_masked, _masked_gradient, compile_alone=False, exact=True, any_shape=True, small=2**31)
MASK_WITH_DENSE_GRADIENT = Kernel(_masked, compile_alone=False, exact=True, any_shape=True, small=2**31)


class Pruner(WeightTransform):
    """Multiplies the weight by a mask of zeros and ones that a schedule makes sparser.

    **Forward** `y = mask * w`. **Gradient** `dy/dw = mask`; with `regrow`, 1, so that a pruned weight goes on learning
    and may come back.

    Subclasses implement `choose(scores, sparsity)`. The mask of a weight that is sparse already, such as that of a
    stripped model, begins with its zeros.

    Args:
        schedule: `step -> sparsity`.
        regrow: Let pruned weights come back. Without it masks are monotone: what is zero stays zero.

    Class attributes:
        makes_zeros: Whether it makes zeros of its own; one that does not keeps those it finds.
        has_target: Whether the sparsity of the schedule is what it makes; else the schedule only says when.
        before_begin: What has to be said of a training that did not come to the schedule's begin.
    """

    makes_zeros: bool = True
    has_target: bool = True
    before_begin: str = "pruning has not begun"
    promises = frozenset({"zeros"})
    preserves = frozenset({"zeros", "grid"})

    def __init__(self, schedule: Schedule, *, regrow: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.schedule = _as_schedule(schedule)
        self.regrow = bool(regrow)

    def create_variables(self) -> None:
        self.create_mask()
        self.step = counter(self, "step")

    def create_mask(self) -> None:
        """Make `mask`, the variable, of ones."""
        self.mask = self.add_weight(
            name="mask",
            shape=self.weight_shape,
            dtype="bool",
            initializer="ones",
            trainable=False,
            aggregation="only_first_replica",
        )

    def initialize(self, weight: Tensor) -> None:
        # A sparse weight may come from a model that was stripped: what is zero stays zero from the start.
        values = ops.convert_to_numpy(weight)
        if not self.regrow and existing(values, ()).sparsity:
            self.mask.assign(values != 0)

    def matrix_axes(self) -> list[int]:
        """The axes of the weight in the order inputs, outputs. Of a table that is looked up in, a row is an output."""
        axes = range(len(self.weight_shape))
        outputs = self.channel_axes or tuple(axes)[:-1]
        return [*(axis for axis in axes if axis not in outputs), *outputs]

    def matrix_shape(self) -> tuple[int, int]:
        """How many inputs and outputs the weight has as a matrix."""
        order = self.matrix_axes()
        count = len(self.channel_axes) or len(order) - 1
        outputs = math.prod(self.weight_shape[axis] for axis in order[len(order) - count :])
        return math.prod(self.weight_shape) // outputs, outputs

    def to_matrix(self, weight: Tensor) -> Tensor:
        """The weight as `(inputs, outputs)`: of a convolution, height, width and channels of the inputs in a row."""
        order = self.matrix_axes()
        return ops.reshape(weight if order == sorted(order) else ops.transpose(weight, order), self.matrix_shape())

    def from_matrix(self, matrix: Tensor) -> Tensor:
        """The weight in its own shape again."""
        order = self.matrix_axes()
        moved = ops.reshape(matrix, [self.weight_shape[axis] for axis in order])
        return moved if order == sorted(order) else ops.transpose(moved, np.argsort(order).tolist())

    def unit_ties(self, weight: Tensor) -> Tensor | None:
        """Flat float32 numbers that rank what is scored alike, the highest first; `None`: the first come first."""
        return None

    def scores(self, weight: Tensor) -> Tensor:
        """How much each weight matters; pruned weights come last unless they may regrow."""
        magnitude = ops.abs(weight)
        return magnitude if self.regrow else ops.where(self.mask, magnitude, -ops.ones_like(magnitude))

    def choose(self, scores: Tensor, sparsity: Tensor) -> Tensor:
        """The new mask, bool, from scores and the sparsity to reach."""
        raise NotImplementedError(f"{type(self).__name__} must implement `choose(scores, sparsity)`.")

    def without_return(self, mask: Tensor) -> Tensor:
        """A new mask in which nothing comes back that may not, should the sparsity fall, for one."""
        return mask if self.regrow else ops.logical_and(mask, value_of(self.mask))

    def update(self, weight: Tensor) -> list[tuple[keras.Variable, Tensor]]:
        step = value_of(self.step)
        # Assigned outside the condition: an assignment inside one breaks nested scopes and distribution.
        mask = ops.cond(
            self.schedule.should_update(step),
            lambda: self.without_return(self.choose(self.scores(weight), self.schedule(step))),
            lambda: value_of(self.mask),
        )
        return [(self.mask, mask), (self.step, step + 1)]

    def kernel(self) -> Bound:
        return MASK_WITH_DENSE_GRADIENT if self.regrow else MASK, (value_of(self.mask),)

    def sparsity(self) -> float:
        """Share of zeros in the mask now."""
        return float(1.0 - np.mean(ops.convert_to_numpy(self.mask)))

    def pending(self) -> str | None:
        step = int(value_of(self.step))
        if step == 0:
            why = "no training step was made" if self.trainable else "the layer is frozen (trainable=False)"
            return f"{self.before_begin}: {why}"
        if step <= self.schedule.begin_step:
            return f"{self.before_begin}: training stopped at step {step}, its begin_step is {self.schedule.begin_step}"
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
