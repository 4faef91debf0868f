"""How TFLite-Micro's kernels bring a sum of products to the grid of its output, and a grid that does the same.

With `(f, e) = frexp(M)`, the factor `M = input scale * weight scale / output scale` is taken for `q * 2^(e - 31)`,
`q = round(f * 2^31)`. The product is rounded to 32 bits first, and then to the output. After the first rounding a value
lies on a tie of the second with a chance of `2^-n`, `n = -e`: with few inputs of few bits, n is small, and up to one in
ten outputs is one step from the nearest integer. So a model frozen for this runtime rounds as it does.

**Reference**: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference" (2018), section 2.2; the two roundings as measured on the kernels.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_compress.core import affine
from keras_compress.core.registry import PACKAGE
from keras_compress.quantizers.activation import FixedGrid
from keras_compress.tflite.multiplier import multiplier_of

Array = NDArray[Any]
Tensor = Any
# By which ADD and SUB shift what they add, and scales so far apart that float32 still holds the sums.
_SUM_BITS = 20
_MOST_OCTAVES = 12


def round_twice(sums: Tensor, factor: Tensor, exponent: Tensor) -> Tensor:
    """Sums times `factor * 2^(exponent - 31)`: a high product, ties upwards, then a shift, ties away from zero.

    Args:
        sums: int64 tensor or array.
        factor: int64, see `multiplier_of`; it broadcasts against the sums.
        exponent: int64, likewise.

    >>> round_twice(np.array([6, -6, 5]), *multiplier_of(np.array([0.25, 0.25, 0.25]))).numpy().tolist()
    [2, -2, 2]
    """
    shift = tf.bitwise.left_shift
    one = tf.constant(1, tf.int64)
    zero = tf.zeros_like(exponent)
    product = sums * shift(tf.ones_like(exponent), tf.maximum(exponent, zero)) * factor
    nudged = product + tf.where(product >= 0, tf.constant(2**30, tf.int64), tf.constant(1 - 2**30, tf.int64))
    # Towards zero: a shift alone goes down.
    high = tf.sign(nudged) * tf.bitwise.right_shift(tf.abs(nudged), 31 * one)
    right = tf.maximum(-exponent, zero)
    mask = shift(tf.ones_like(right), right) - 1
    remainder = tf.bitwise.bitwise_and(high, mask)
    threshold = tf.bitwise.right_shift(mask, one) + tf.cast(high < 0, tf.int64)
    return tf.bitwise.right_shift(high, right) + tf.cast(remainder > threshold, tf.int64)


@keras.saving.register_keras_serializable(package=PACKAGE)
class TwiceRoundedGrid(FixedGrid):
    """The grid behind a layer with weights, of a model frozen for TFLite-Micro.

    **Forward** as `FixedGrid`, but that `x / scale` is computed from the integer `x / step` as `round_twice` does.

    Args:
        channels: Length of the last axis.
        **kwargs: Those of `FixedGrid`.
    """

    def __init__(self, *args: Any, channels: int, **kwargs: Any) -> None:
        self._channels = int(channels)
        super().__init__(*args, **kwargs)

    @classmethod
    def behind(cls, grid: FixedGrid, input_scale: float, weight_scale: Array) -> TwiceRoundedGrid:
        """The same grid for what a layer computes.

        Args:
            grid: Scale, zero point and lowest integer.
            input_scale: Of the layer's input.
            weight_scale: Of each channel, `(channels,)`.
        """
        step = np.float64(np.float32(input_scale)) * weight_scale.astype(np.float64)
        return cls._with(grid, step, *multiplier_of(step / np.float64(np.float32(grid.scale))))

    @classmethod
    def behind_mean(cls, grid: FixedGrid, input_scale: float, count: int) -> TwiceRoundedGrid:
        """The same grid for means: MEAN divides its factor by the number of values, rounding it down.

        Args:
            grid: Scale, zero point and lowest integer.
            input_scale: Of the input.
            count: How many values each mean is of.
        """
        scale = np.float64(np.float32(input_scale))
        factor, exponent = multiplier_of(np.array([scale / np.float64(np.float32(grid.scale))]))
        shift = min(count.bit_length() - 1, 32, 31 + int(exponent[0]))
        return cls._with(grid, np.array([scale / count]), (factor << shift) // count, exponent - shift)

    @classmethod
    def behind_sum(cls, grid: FixedGrid, scales: tuple[float, float]) -> FixedGrid:
        """The same grid for sums and differences of two tensors, where kernels add exactly; else the grid as it is.

        ADD and SUB bring both tensors to steps of `2^-20` of twice the larger scale. Where that is the smaller one
        times a power of two nothing is lost there, and what a sum becomes depends on the sum alone. Otherwise each
        summand is rounded before, and moves sums off their ties by as little as that.

        Args:
            grid: Scale, zero point and lowest integer.
            scales: Of the two tensors.
        """
        smaller, larger = sorted(np.float64(np.float32(scale)) for scale in scales)
        octaves = int(np.rint(np.log2(larger / smaller)))
        if smaller * 2.0**octaves != larger or octaves > _MOST_OCTAVES:
            return grid
        factor, exponent = multiplier_of(
            np.array([2.0**-_SUM_BITS * 2.0 * larger / np.float64(np.float32(grid.scale))])
        )
        return cls._with(grid, np.array([smaller]), factor << (_SUM_BITS - 1 - octaves), exponent)

    @classmethod
    def _with(cls, grid: FixedGrid, step: Array, factor: Array, exponent: Array) -> TwiceRoundedGrid:
        made = cls(grid.scale, grid.zero_point, grid.bits, grid.lowest, channels=step.size)
        for variable, values in ((made.step, step), (made.factor, factor), (made.exponent, exponent)):
            variable.assign(values)
        return made

    def create_variables(self) -> None:
        shared = {"shape": (self._channels,), "trainable": False, "initializer": "ones"}
        self.step = self.add_weight(name="step", **shared)
        self.factor = self.add_weight(name="factor", dtype="int64", **shared)
        self.exponent = self.add_weight(name="exponent", dtype="int64", **shared)

    def _on_grid(self, values: Tensor) -> Tensor:
        sums = tf.cast(tf.round(values / self.step.value), tf.int64)
        integers = round_twice(sums, self.factor.value, self.exponent.value) + self.zero_point
        clipped = tf.clip_by_value(tf.cast(integers, tf.float32), float(self.lowest), float(self.spec.maximum))
        return affine.dequantize(clipped, self.scale, float(self.zero_point))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "channels": self._channels}
