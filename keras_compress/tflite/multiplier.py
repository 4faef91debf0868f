"""The fixed-point factors by which integer kernels rescale sums, and how they round.

TFLite-Micro, and LiteRT's reference convolutions, round twice: to 32 bits, then to the output. LiteRT's reference
FULLY_CONNECTED rounds once.

**Reference**: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference" (2018), section 2.2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def multiplier_of(scale: Array) -> tuple[Array, Array]:
    """`(q, e)` of positive factors: `scale ~ q * 2^(e - 31)`, `2^30 <= q < 2^31`."""
    fraction, exponent = np.frexp(np.asarray(scale, np.float64))
    integers = np.rint(fraction * 2.0**31).astype(np.int64)
    full = integers == 2**31
    return np.where(full, integers // 2, integers), exponent.astype(np.int64) + full


def round_twice(sums: Array, scale: Array) -> Array:
    """`sums * scale` as TFLite-Micro rounds: a doubling high product, ties upwards, then a shift, ties away from zero.

    >>> round_twice(np.array([6, -6, 5]), np.array([0.25, 0.25, 0.25])).tolist()
    [2, -2, 2]
    """
    factor, exponent = multiplier_of(scale)
    product = (sums.astype(np.int64) << np.maximum(exponent, 0)) * factor
    nudged = product + np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    high = np.sign(nudged) * (np.abs(nudged) >> 31)
    shift = np.maximum(-exponent, 0)
    mask = (np.int64(1) << shift) - 1
    rounded: Array = (high >> shift) + ((high & mask) > (mask >> 1) + (high < 0))
    return rounded


def round_once(sums: Array, scale: Array) -> Array:
    """`sums * scale` as LiteRT's reference FULLY_CONNECTED rounds: once, ties upwards.

    >>> round_once(np.array([6, -6, 5]), np.array([0.25, 0.25, 0.25])).tolist()
    [2, -1, 1]
    """
    factor, exponent = multiplier_of(scale)
    shift = 31 - exponent
    rounded: Array = (sums.astype(np.int64) * factor + (np.int64(1) << (shift - 1))) >> shift
    return rounded
