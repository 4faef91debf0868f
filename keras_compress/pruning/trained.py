"""What pruners share whose zeros come out of what they train, not out of a ranking that a schedule asks for."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_compress.core import kernels
from keras_compress.core.context import counter, first_time_in_call
from keras_compress.core.noise import Stream, check_seed
from keras_compress.core.ste import value_of
from keras_compress.core.transform import WeightTransform

Tensor = Any


def not_negative(name: str, value: Any) -> float:
    """A finite number from 0 as a float.

    Raises:
        ValueError: For anything else.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0.0 <= value < float("inf"):
        raise ValueError(f"Expected `{name}` as a number >= 0. Received: {name}={value!r}")
    return float(value)


def positive(name: str, value: Any) -> float:
    """A finite number above 0 as a float.

    Raises:
        ValueError: For anything else.
    """
    if not not_negative(name, value) > 0.0:
        raise ValueError(f"Expected `{name}` > 0. Received: {name}={value!r}")
    return float(value)


def whole_steps(name: str, value: Any, lowest: int = 0) -> int:
    """A number of steps.

    Raises:
        ValueError: For what is no integer, or below `lowest`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise ValueError(f"Expected `{name}` to be an integer >= {lowest}. Received: {name}={value!r}")
    return value


def logit(uniform: Tensor) -> Tensor:
    """`log(u / (1 - u))`: logistic noise of uniform one."""
    return tf.math.log(uniform) - tf.math.log1p(-uniform)


class TrainedPruner(WeightTransform):
    """A pruner that trains what decides on its zeros, together with the weights.

    Subclasses implement `kernel()`, what inference and the file have, with exact zeros; and, where training sees
    something else, `training_kernel()`; where they add to the loss, `penalty(weight)`.
    """

    promises = frozenset({"zeros"})
    preserves = frozenset({"zeros"})
    idempotent = False

    def create_variables(self) -> None:
        self.step = counter(self, "step")

    def update(self, weight: Tensor) -> list[tuple[keras.Variable, Tensor]]:
        return [(self.step, value_of(self.step) + 1)]

    def training_kernel(self) -> kernels.Bound | None:
        """What training sees."""
        return self.kernel()

    def penalty(self, weight: Tensor) -> Tensor | None:
        """What is added to the loss of a training step, once for each batch; a scalar."""
        return None

    def call(self, weight: Tensor, training: bool = False) -> Tensor:
        bound = self.training_kernel() if training and self.trainable else self.kernel()
        # A layer that stands in two places has one set of weights.
        if training and self.trainable and first_time_in_call(self.step):
            penalty = self.penalty(weight)
            if penalty is not None:
                self.add_loss(penalty)
        return weight if bound is None else kernels.run([bound], weight)

    def pending(self) -> str | None:
        if int(value_of(self.step)) == 0:
            why = "no training step was made" if self.trainable else "the layer is frozen (trainable=False)"
            return f"pruning has not begun: {why}"
        return None


class DrawingPruner(TrainedPruner):
    """A trained pruner whose training sees random numbers, the same for the same seed, step and first weight.

    Args:
        seed: Seed of the draws, an integer from 0 to 2^31 - 1.
    """

    draws = True

    def __init__(self, *, seed: int = 0, name: str | None = None, trainable: bool = True) -> None:
        super().__init__(name=name, trainable=trainable)
        self.seed = check_seed(seed)

    def create_variables(self) -> None:
        super().create_variables()
        self.stream = Stream(self, self.seed)

    def initialize(self, weight: Tensor) -> None:
        self.stream.begin(weight)

    def uniform(self) -> Tensor:
        """Numbers in (0, 1) of this step, in the shape of the weight."""
        return self.stream.uniform(tf.zeros(self.weight_shape), value_of(self.step))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}
