"""What pruners share whose zeros come out of what they train, not out of a ranking that a schedule asks for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_compress.core import kernels
from keras_compress.core.context import counter, first_time_in_call
from keras_compress.core.noise import SMALL, Stream, check_seed
from keras_compress.core.ste import compiled, shared, value_of
from keras_compress.core.transform import WeightTransform

Tensor = Any
# How kernels run that only training sees: nothing else has to give the same bits, so small weights need no program.
IN_TRAINING: dict[str, Any] = {"exact": True, "any_shape": True, "small": SMALL}


def finite(name: str, value: Any, wanted: str = "as a finite number") -> float:
    """A finite number as a float.

    Args:
        name: Argument's name, for the error.
        value: What was given.
        wanted: What is expected, for the error.

    Raises:
        ValueError: For anything else.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise ValueError(f"Expected `{name}` {wanted}. Received: {name}={value!r}")
    return float(value)


def not_negative(name: str, value: Any) -> float:
    """A finite number from 0 as a float.

    Raises:
        ValueError: For anything else.
    """
    wanted = "as a number >= 0"
    if finite(name, value, wanted) < 0.0:
        raise ValueError(f"Expected `{name}` {wanted}. Received: {name}={value!r}")
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


def logit(probability: Tensor) -> Tensor:
    """`log(p / (1 - p))`."""
    return tf.math.log(probability / (1.0 - probability))


def by_size(function: Callable[..., Any], tensors: int) -> Callable[..., Any]:
    """A pure function of float32 tensors of one shape: a program of its own for large ones, one node for small ones.

    What it gives is in that shape, or a scalar.

    Args:
        function: Element by element, or a sum of all.
        tensors: How many it takes.
    """
    large = compiled(function)
    small = shared([tf.TensorSpec([None], tf.float32)] * tensors)(function)

    def apply(*arguments: Tensor) -> Any:
        if kernels.worth_compiling(arguments[0], SMALL):
            return large(*arguments)
        found = small(*(tf.reshape(each, [-1]) for each in arguments))
        shape = tf.shape(arguments[0])
        return tf.nest.map_structure(lambda each: each if each.shape.rank == 0 else tf.reshape(each, shape), found)

    return apply


class TrainedPruner(WeightTransform):
    """A pruner that trains what decides on its zeros, together with the weights.

    Subclasses implement `kernel()`, what inference and the file have, with exact zeros; and, where training sees
    something else, `training_kernel(common)`; where they add to the loss, `penalty(weight, common)`. What both need is
    computed once, `in_common()`.
    """

    promises = frozenset({"zeros"})
    preserves = frozenset({"zeros"})
    idempotent = False
    may_close = True

    def create_variables(self) -> None:
        self.step = counter(self, "step")

    def update(self, weight: Tensor) -> list[tuple[keras.Variable, Tensor]]:
        return [(self.step, value_of(self.step) + 1)]

    def in_common(self) -> Any:
        """What `training_kernel` and `penalty` both need in a step; no gradient goes through it."""
        return None

    def training_kernel(self, common: Any) -> kernels.Bound | None:
        """What training sees."""
        return self.kernel()

    def penalty(self, weight: Tensor, common: Any) -> Tensor | None:
        """What is added to the loss of a training step, once for each batch; a scalar."""
        return None

    def call(self, weight: Tensor, training: bool = False) -> Tensor:
        if not (training and self.trainable):
            bound = self.kernel()
            return weight if bound is None else kernels.run([bound], weight)
        common = self.in_common()
        # A layer that stands in two places has one set of weights.
        if first_time_in_call(self.step):
            penalty = self.penalty(weight, common)
            if penalty is not None:
                self.add_loss(penalty)
        bound = self.training_kernel(common)
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
        return self.stream.uniform(self.weight_shape, value_of(self.step))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}
