"""What is asked of the range and the integers of an activation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import NDArray

from keras_compress.core import affine
from keras_compress.core.ste import gradient_inside, in_float32, with_gradient
from keras_compress.quantizers.kinds import Place

Tensor = Any
# `(values, upstream, *numbers) -> gradients of the values and of each number`, and the numbers now.
Surrogate = tuple[Callable[..., Sequence[Tensor]], Sequence[Tensor]]


def at_hand(forward: Callable[[Any], Any], inputs: Any) -> Any:
    """What `forward` makes of float32 values, in their dtype.

    Of values at hand NumPy makes the same ones; starting TensorFlow's operators takes ten times longer.
    """
    if tf.is_tensor(inputs) and hasattr(inputs, "numpy") and inputs.dtype == tf.float32:
        return tf.convert_to_tensor(forward(inputs.numpy()))
    return in_float32(forward, inputs)


@dataclass(frozen=True)
class Staircase:
    """A function that is constant between thresholds.

    Attributes:
        thresholds: Ascending; from each on the next level holds.
        levels: Integers, one more than there are thresholds.
        step: What they are multiples of.
    """

    thresholds: list[float]
    levels: list[int]
    step: float

    def __call__(self, values: Any) -> Any:
        """What it makes of float32 values, by operations of Keras."""
        found: Any = float(self.levels[0])
        for threshold, (low, high) in zip(self.thresholds, itertools.pairwise(self.levels), strict=True):
            found = found + ops.where(values >= threshold, float(high - low), 0.0)
        return found * self.step


class ActivationGrid:
    """What is asked of an activation's range and integers. Subclasses implement `parameters` and `call`.

    By itself no Keras layer: those of a conversion, which nothing trains and no file holds, are made by the thousand.

    Args:
        bits: 1 to 8, or 16 (symmetric).

    Class attributes:
        allowed_bits: Values of `bits` for which the method is defined.
        non_negative: It takes values of 0 and more only: `quantize_model` puts it behind ReLUs.
        replaces_relu: It takes the place of a ReLU, as a function of its input: a sign, or else a `staircase`.
        is_sign: It is 1 from a threshold on, and -1 below.
        describes: Its range describes the values, and is no part of the function that the model computes.

    Raises:
        ValueError: For other bits.
    """

    allowed_bits: tuple[int, ...] = (*range(1, 9), 16)
    non_negative: bool = False
    replaces_relu: bool = False
    is_sign: bool = False
    describes: bool = False

    def set_bits(self, bits: int) -> None:
        """Take a width that the method is defined for."""
        if isinstance(bits, bool) or bits not in self.allowed_bits:
            raise ValueError(f"Expected `bits` out of {self.allowed_bits}. Received: bits={bits}")
        self.bits = bits

    @property
    def spec(self) -> affine.QuantSpec:
        """Integer format: asymmetric, or symmetric for 16 bits as TFLite has it."""
        wide = self.bits == 16
        return affine.QuantSpec(bits=self.bits, symmetric=wide, narrow_range=wide)

    def trained(self) -> bool:
        """Whether the range is known."""
        return True

    @property
    def prepared(self) -> bool:
        """Whether there is nothing left for `prepare` to do."""
        return True

    def prepare(self, shape: Sequence[int | None]) -> None:
        """Make the variables that depend on the shape of the values, the batch first. None by default."""

    def staircase(self) -> Staircase:
        """The function of inference, of one that replaces a ReLU and is no sign."""
        raise NotImplementedError(f"{type(self).__name__} must implement `staircase()`.")

    def thresholds(self) -> NDArray[np.float64]:
        """From where on a sign is 1: one number, or one for each channel. Of a staircase, where it changes."""
        return np.zeros(1)

    def stands_at(self, place: Place) -> bool:
        """Whether `quantize_model` may put it there."""
        if self.replaces_relu:
            return place is Place.RELU
        if place is Place.MEAN:
            # The device has 8 bits for them, at no cost; few levels would leave little of a mean.
            return self.bits >= 8 and not self.non_negative
        return place is not Place.ANYWHERE or not self.non_negative

    def parameters(self) -> tuple[Tensor, Tensor]:
        """`(scale, zero_point)` of inference, float scalars."""
        raise NotImplementedError(f"{type(self).__name__} must implement `parameters()`.")

    def range(self) -> tuple[Tensor, Tensor]:
        """`(low, high)` of inference, before 0.0 is included."""
        scale, zero_point = self.parameters()
        spec = self.spec
        return (spec.minimum - zero_point) * scale, (spec.maximum - zero_point) * scale

    def surrogate(self) -> Surrogate:
        """The gradient of training and the numbers that it moves: 1 inside the range, 0 outside, and none."""
        low, high = self.range()
        return lambda values, upstream: (gradient_inside(values, low, high, upstream),), ()

    def inferred(self, forward: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """What `forward` makes of float32 values in inference, with the gradient of training.

        Saliency maps, adversarial examples and loops that call the model without `training=True` have gradients so.
        """
        backward, numbers = self.surrogate()
        return in_float32(lambda values: with_gradient(forward, backward, values, *numbers), inputs)

    def check_range(self, where: str) -> None:
        """Refuse a range or thresholds that training has made NaN or infinite.

        Raises:
            ValueError: Naming the place.
        """
        low, high = (float(end) for end in self.range())
        if not np.isfinite(found := self.thresholds()).all():
            raise ValueError(
                f"Expected finite thresholds of activations. Received: {found[~np.isfinite(found)][0]} at {where!r}: "
                "the training diverged"
            )
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(
                f"Expected a finite range of activations. Received: {low} to {high} at {where!r}: the training "
                "diverged, or a layer before it gives values that are not finite"
            )

    def plain(self, inputs: Any) -> Any:
        """The same function of inference as plain Keras operations."""
        if not self.trained():
            return inputs
        scale, zero_point = (float(p) for p in self.parameters())
        return in_float32(lambda values: affine.fake_quantize(values, scale, zero_point, self.spec), inputs)

    def unrounded(self, inputs: Any) -> Any:
        """What is left of it in a model that computes in floats: the function without the rounding."""
        if self.describes:
            return inputs
        low, high = (float(end) for end in self.range())
        return in_float32(lambda values: ops.clip(values, low, high), inputs)

    def summary_values(self) -> dict[str, float]:
        """Figures worth a curve in TensorBoard, by name."""
        return {}
