"""Weights that are powers of two."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf
from keras import ops

from keras_compress.core import affine
from keras_compress.core.registry import register
from keras_compress.quantizers.weight_quantizer import IntegerGrid, WeightQuantizer

Tensor = Any
MANTISSA_BITS = 23
BIAS = 127
# The smallest exponent of a float32 that keeps its precision; XLA takes smaller ones for 0.
SMALLEST_EXPONENT = -126
# Added to a float32 taken as an integer, it carries into the exponent where the mantissa is above the square root of 2.
# No float32 equals that root, so there are no ties.
_CARRY = (1 << MANTISSA_BITS) - 0x3504F4


def _rounded_log2(values: Tensor) -> Tensor:
    """`round(log2|x|)`, int32, exact; less than `SMALLEST_EXPONENT` for 0.

    A logarithm would be off by a hair, another one in each compiled program.
    """
    as_integers = tf.bitcast(ops.abs(values), tf.int32)
    return tf.bitwise.right_shift(as_integers + _CARRY, MANTISSA_BITS) - BIAS


def _power_of_two(exponents: Tensor) -> Tensor:
    """`2^exponent`, float32, exact, for -126 to 127."""
    return tf.bitcast(tf.bitwise.left_shift(exponents + BIAS, MANTISSA_BITS), tf.float32)


@functools.cache
def _grid(exponent_count: int, group_axes: tuple[int, ...] | None) -> IntegerGrid:
    def lowest_exponent(exponents: Tensor) -> Tensor:
        axes = affine.reduction_axes(len(exponents.shape), group_axes)
        highest = ops.max(exponents, axis=axes, keepdims=True)
        of_tensor = ops.max(highest)
        # Scale 1 where all is 0, the largest one for a group of zeros.
        of_tensor = ops.where(of_tensor < SMALLEST_EXPONENT, exponent_count - 1, of_tensor)
        highest = ops.where(highest < SMALLEST_EXPONENT, of_tensor, highest)
        return ops.maximum(highest - (exponent_count - 1), SMALLEST_EXPONENT)

    def to_integers(weight: Tensor) -> tuple[Tensor, Tensor]:
        exponents = ops.minimum(_rounded_log2(weight), BIAS)
        lowest = lowest_exponent(exponents)
        code = exponents - lowest
        magnitude = ops.where(code >= 0, _power_of_two(ops.maximum(code, 0)), 0.0)
        return ops.sign(weight) * magnitude, _power_of_two(lowest)

    return IntegerGrid(to_integers)


@register("weight_transform")
class Log2(WeightQuantizer):
    """Rounds the weight to a power of two, in the logarithm, or to 0.

    **Forward** `e = round(log2|w|)`, `y = sign(w) * 2^e`, or 0 where `e < E - n + 1`, with `n = 2^(bits-1) - 1`
    exponents and `E = round(log2 max|w|)`. The middle between `2^e` and `2^(e+1)` is so `2^(e+0.5)`, and what is less
    than `2^(E-n+0.5)` becomes 0.
    **Gradient** `dy/dw = 1` (straight through).

    **Levels** 0 and `+-2^i`, `i = 0 .. n - 1`, times `2^(E-n+1)`: they fit int8 with 2, 3 and 4 bits (up to 2^6).

    Args:
        bits: 2 to 8.
        per_channel: An `E` for each output channel, or one for the tensor. After a clusterer they follow its codebooks
            whatever this says.

    Raises:
        ValueError: For bits out of range.

    **Reference**: Miyashita, Lee and Murmann, "Convolutional Neural Networks using Logarithmic Data Representation"
    (2016), section 3, LogQuant, with one of the bits for the sign.
    **Deviations**: the full-scale range follows `max|w|`, where the paper sets it for each layer. Exponents under -126,
    which float32 does not hold in full precision, become 0. A channel of zeros takes the scale of the largest channel.
    """

    def __init__(self, bits: int = 4, *, per_channel: bool = True, **kwargs: Any) -> None:
        super().__init__(bits, per_channel=per_channel, **kwargs)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"bits": 8, "per_channel": False}]

    @property
    def exponent_count(self) -> int:
        """Number of different magnitudes but 0."""
        return int(2 ** (self.bits - 1) - 1)

    @property
    def storage_bits(self) -> int:
        return 2 if self.bits == 2 else self.exponent_count + 1

    def grid(self) -> tuple[IntegerGrid, tuple[Tensor, ...]]:
        return _grid(self.exponent_count, self.group_axes), ()
