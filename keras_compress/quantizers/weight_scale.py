"""What weight quantizers with a trained scale share: the variable, its first value, and a scale that is never 0."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from keras_compress.core import affine
from keras_compress.core.ste import value_of
from keras_compress.quantizers.weight_quantizer import WeightQuantizer

Tensor = Any
# Training may carry a trained scale to 0 and below; the forward pass then computes with this.
SMALLEST = 1e-8


def positive(scale: Tensor) -> Tensor:
    """The scale, `SMALLEST` where it is less.

    >>> positive(ops.array([2.0, -1.0])).numpy().tolist()
    [2.0, 9.99999993922529e-09]
    """
    return ops.maximum(scale, SMALLEST)


def sum_of_groups(values: Tensor, scale: Tensor) -> Tensor:
    """Sum over the values that share an entry of `scale`, in the shape of `scale`."""
    return ops.sum(values, axis=[axis for axis, n in enumerate(scale.shape) if n == 1], keepdims=True)


def group_size(values: Tensor, scale: Tensor) -> int:
    """How many values share one entry of `scale`."""
    return int(math.prod(values.shape) // math.prod(scale.shape))


class TrainedScaleQuantizer(WeightQuantizer):
    """A weight quantizer with one trained number for each scale, which the optimizer moves like a weight.

    Class attributes:
        learned_name: What the paper calls the number; name of the variable.
    """

    learned_name: str = "alpha"

    def create_variables(self) -> None:
        self.learned = self.add_weight(name=self.learned_name, shape=tuple(self.scale_shape), initializer="ones")

    def initialize(self, weight: Tensor) -> None:
        self.learned.assign(affine.fill_zero_scales(self.first_value(ops.convert_to_tensor(weight, "float32"))))

    def first_value(self, weight: Tensor) -> Tensor:
        """What to train from, in the shape of the variable: by default where clipping costs little.

        The largest magnitude, but no more than three standard deviations around 0.
        """
        largest = ops.max(ops.abs(weight), axis=self.reduced_axes, keepdims=True)
        deviation = ops.sqrt(ops.mean(ops.square(weight), axis=self.reduced_axes, keepdims=True))
        return ops.minimum(largest, 3.0 * deviation)

    def summary_values(self) -> dict[str, float]:
        values = ops.convert_to_numpy(value_of(self.learned))
        return {f"lowest_{self.learned_name}": float(values.min()), f"highest_{self.learned_name}": float(values.max())}
