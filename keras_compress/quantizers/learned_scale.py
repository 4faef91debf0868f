"""What PACT and LSQ share: one trained positive number, which the first training batch sets."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_compress.core import affine
from keras_compress.core.context import assign
from keras_compress.core.ste import compiled, finite_extremes, value_of, with_gradient
from keras_compress.quantizers.activation import Surrogate, TrainedQuantizer

Tensor = Any
# An optimizer may push the number to 0 and below: it then counts as this, and its gradient can lead it back.
SMALLEST = 1e-6


@functools.cache
def _rounding(spec: affine.QuantSpec, divisor: int, zero_point: int) -> Callable[..., Tensor]:
    def forward(values: Tensor, learned: Tensor) -> Tensor:
        return affine.fake_quantize(values, scale_of(learned, divisor), float(zero_point), spec)

    return compiled(forward)


def _finite(values: Tensor) -> Tensor:
    return tf.where(tf.math.is_finite(values), values, tf.zeros_like(values))


def scale_of(learned: Tensor, divisor: int) -> Tensor:
    """The step that the trained number stands for."""
    return ops.maximum(learned, SMALLEST) * (1.0 / divisor)


class LearnedScale(TrainedQuantizer):
    """A quantizer whose step is a trained number, divided by a constant.

    Subclasses implement `first_value` and `backward`.

    Class attributes:
        learned_name: Name of the number.
        start: Its first value; `None` lets the first training batch decide.
        relative: Train the number over its first value, with its gradient divided by that: SGD moves the number the
            same, and Adam, for which the size of a gradient does not count, by a share of itself.
    """

    allowed_bits = tuple(range(1, 9))
    learned_name: str
    start: float | None = None
    relative: bool = False

    def create_variables(self) -> None:
        self.unit: Any = 1.0
        if self.relative:
            self.unit = self.add_weight(name="first", shape=(), initializer="ones", trainable=False, aggregation="mean")
        first = keras.initializers.Constant(1.0 if self.start is None else self.start)
        self.learned = self.add_weight(name=self.learned_name, shape=(), initializer=first, aggregation="mean")
        super().create_variables()

    @property
    def known_from_start(self) -> bool:  # type: ignore[override]
        """It need not wait for the first batch."""
        return self.start is not None

    @property
    def divisor(self) -> int:
        """What the number is divided by to give the step."""
        return 1

    @property
    def zero_point(self) -> int:
        """Integer of 0.0."""
        return self.spec.minimum

    def number(self) -> Tensor:
        """The number now, float scalar."""
        return value_of(self.learned) * value_of(self.unit) if self.relative else value_of(self.learned)

    def parameters(self) -> tuple[Tensor, Tensor]:
        scale = scale_of(self.number(), self.divisor)
        return scale, ops.full_like(scale, float(self.zero_point))

    def unrounded(self, inputs: Any) -> Any:
        return super().unrounded(inputs) if self.trained() else inputs

    def first_value(self, values: Tensor) -> Tensor:
        """The number for the first training batch, which holds 0 for what is not finite; 1 if it is not positive."""
        raise NotImplementedError(f"{type(self).__name__} must implement `first_value(values)`.")

    def backward(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """Compiled `(values, number, upstream) -> gradients of both`, the same object for the same settings."""
        raise NotImplementedError(f"{type(self).__name__} must implement `backward()`.")

    def surrogate(self) -> Surrogate:
        return self._gradients(value_of(self.unit) if self.relative else None), (value_of(self.learned),)

    def _gradients(self, unit: Tensor | None) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Gradients of the values and of the trained number, which is `learned`, or `learned * unit`."""
        backward = self.backward()

        def gradients(values: Tensor, upstream: Tensor, learned: Tensor) -> tuple[Tensor, Tensor]:
            of_values, of_number = backward(values, learned if unit is None else learned * unit, upstream)
            # A batch whose gradient is not finite must not move the number: it would never come back.
            of_number = tf.where(tf.math.is_finite(of_number), of_number, tf.zeros_like(of_number))
            return of_values, of_number if unit is None else of_number / unit

        return gradients

    def train(self, values: Tensor) -> Tensor:
        batches, now = value_of(self.batches), value_of(self.learned)
        lowest, highest, whole = finite_extremes(ops.stop_gradient(values))
        some = lowest <= highest
        fresh = ops.logical_and(batches == 0, some)
        unit = value_of(self.unit) if self.relative else tf.ones_like(now)
        # As in `LearnedRange`: no gradient may enter the condition, and the number has one in every batch.
        first = ops.stop_gradient(ops.cond(fresh, lambda: self.first_value(_finite(values)), lambda: now))
        first = ops.where(first > 0, first, ops.ones_like(first))
        if self.relative:
            unit, first = ops.where(fresh, first, unit), tf.ones_like(now)
            assign(self.unit, ops.stop_gradient(unit))
        used = ops.where(fresh, first, now)
        assign(self.learned, ops.stop_gradient(used))
        assign(self.batches, ops.where(some, batches + 1 if self.trainable else ops.maximum(batches, 1), batches))
        self.count(whole)
        self.penalize(used)
        forward = _rounding(self.spec, self.divisor, self.zero_point)
        return with_gradient(lambda x: forward(x, used * unit), self._gradients(unit), values, used)

    def penalize(self, learned: Tensor) -> None:
        """Add a loss for the number; none by default."""

    def set_learned(self, value: float) -> None:
        """Set the number exactly; training goes on from there."""
        first = value if value > 0 else 1.0
        if self.relative:
            self.unit.assign(first)
        self.learned.assign(1.0 if self.relative else first)
        self.batches.assign(1)

    def summary_values(self) -> dict[str, float]:
        return {self.learned_name: float(self.number())}
