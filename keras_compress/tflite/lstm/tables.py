"""Sigmoid and tanh of 16 bits as the kernels of recurrent operators compute them: tables of all 65,536 inputs.

LiteRT evaluates gemmlowp's fixed-point functions (an exponential by a barrel shifter, then a division by Newton's
method); TFLite-Micro interpolates between 256 samples of a sigmoid, `x / 24` apart. The two differ by a few steps of
2^-15.

**Reference**: `fixedpoint/fixedpoint.h` of gemmlowp; `integer_ops/logistic.h` and `integer_ops/tanh.h` of TFLite-Micro.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.int64]

_INPUTS = np.arange(-32768, 32768, dtype=np.int64)
_LARGEST = 32767
# e^-(2^k) in 32 bits without integer bits, for k from -2 on.
_EXPONENTIALS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)


@functools.cache
def sigmoid_table(runtime: str) -> NDArray[np.int32]:
    """Sigmoid of `x * 2^-12`, in steps of 2^-15, for x from -32768 to 32767.

    >>> sigmoid_table("litert")[[32768, 65535]].tolist(), sigmoid_table("tflm")[[32768, 65535]].tolist()
    ([16384, 32756], [16384, 32757])
    """
    found = sigmoid_of_samples(3 * _INPUTS) if runtime == "tflm" else _logistic(_INPUTS)
    return found.astype(np.int32)


@functools.cache
def tanh_table(runtime: str, integer_bits: int) -> NDArray[np.int32]:
    """Tanh of `x * 2^(integer_bits - 15)`, in steps of 2^-15, for x from -32768 to 32767.

    Args:
        runtime: `"litert"` or `"tflm"`: whose kernel.
        integer_bits: 0 to 6, as LiteRT has it.
    """
    if not 0 <= integer_bits <= 6:
        raise ValueError(f"Expected 0 to 6 integer bits. Received: integer_bits={integer_bits}")
    if runtime == "litert":
        return _tanh(_INPUTS, integer_bits).astype(np.int32)
    shift = integer_bits - 3
    scaled = 3 * _INPUTS << shift if shift >= 0 else (3 * _INPUTS + (1 << (-shift - 1))) >> -shift
    return tanh_of_samples(scaled).astype(np.int32)


@functools.cache
def _samples() -> Array:
    """Sigmoid at 0, 1/24, 2/24, ... in steps of 2^-16, each raised by half of what a chord runs too low."""
    at = np.arange(256) / 24
    here, middle, next_one = (65536 / (1 + np.exp(-x)) for x in (at, at + 1 / 48, at + 1 / 24))
    found: Array = np.rint(here + (middle - (here + next_one) / 2) / 2).astype(np.int64)
    found[-1] = 65535
    return found


def sigmoid_of_samples(scaled: Array) -> Array:
    """Sigmoid of `x / 12288` by 256 samples, in steps of 2^-15; LiteRT's LOGISTIC and TANH of 16 bits take them too."""
    size = np.abs(scaled)
    place = np.minimum(size >> 9, 254)
    low, high = _samples()[place], _samples()[place + 1]
    found = np.where(size >> 9 >= 255, _LARGEST << 10, (low << 9) + (size & 511) * (high - low))
    return np.where(scaled >= 0, found + (1 << 9), (1 << 25) - found + (1 << 9) - 1) >> 10


def tanh_of_samples(scaled: Array) -> Array:
    """Tanh likewise."""
    size = np.abs(scaled)
    place = np.minimum(size >> 8, 254)
    low, high = _samples()[place], _samples()[place + 1]
    found = np.where(size >> 8 >= 255, 65535 << 8, (low << 8) + (size & 255) * (high - low))
    half = 1 << 23
    return np.where(scaled >= 0, found - half + (1 << 7), -found + half + (1 << 7) - 1) >> 8


def _logistic(x: Array) -> Array:
    positive = x > 0
    found = _one_over(_exponential(_wrapped(-np.where(positive, x, _wrapped(-x))), 3))
    return np.where(x == 0, 1 << 14, np.where(positive, found, _LARGEST - found))


def _tanh(x: Array, integer_bits: int) -> Array:
    negative = x < 0
    exponential = _exponential(np.where(negative, x, _wrapped(-x)), integer_bits + 1)
    found = _times_power(_newton(exponential) - (1 << 13), 2)
    return np.where(x == 0, 0, np.where(negative, _wrapped(-found), found))


def _one_over(x: Array) -> Array:
    """`1 / (1 + x)` for x in (0, 1)."""
    return _times_power(_newton(x), 1)


def _newton(x: Array) -> Array:
    """`2 / (1 + x)` with two integer bits, for x in (0, 1)."""
    denominator = (x + _LARGEST + 1) >> 1
    found = _wrapped(_constant(1515870810) + _product(denominator, _constant(-1010580540)))
    for _ in range(3):
        left = _wrapped((1 << 13) - _product(denominator, found))
        found = _wrapped(found + _times_power(_product(found, left), 2))
    return found


def _exponential(a: Array, integer_bits: int) -> Array:
    """`e^a` without integer bits, for a <= 0 with these."""
    fraction_bits = 15 - integer_bits
    quarter = 1 << (fraction_bits - 2)
    small = (a & (quarter - 1)) - quarter
    power = _exponential_above_minus_quarter(_times_power(small, integer_bits))
    rest = _wrapped(small - a)
    for exponent, constant in zip(range(-2, 5), _EXPONENTIALS, strict=True):
        if integer_bits > exponent:
            bit = rest & (1 << (fraction_bits + exponent))
            power = np.where(bit != 0, _product(power, _constant(constant)), power)
    if integer_bits > 5:
        power = np.where(a < _constant(-(1 << (36 - integer_bits))), 0, power)
    return np.where(a == 0, _LARGEST, power)


def _exponential_above_minus_quarter(a: Array) -> Array:
    """`e^a` for a in [-1/4, 0): four terms of Taylor's series around -1/8."""
    constant, third = _constant(1895147668), _constant(715827883)
    x = _wrapped(a + (1 << 12))
    x2 = _product(x, x)
    x3, x4 = _product(x2, x), _product(x2, x2)
    higher = _shifted(_wrapped(_product(_wrapped(_shifted(x4, 2) + x3), third) + x2), 1)
    return _clipped(constant + _product(constant, _wrapped(x + higher)))


def _constant(of_32_bits: int) -> Any:
    return _shifted(np.int64(of_32_bits), 16)


def _product(a: Any, b: Any) -> Any:
    """High half of twice the product, rounded to the nearest, ties upwards; (-1) * (-1) saturates."""
    return np.minimum((a * b + (1 << 14)) >> 15, _LARGEST)


def _shifted(x: Any, bits: int) -> Any:
    """Divided by a power of two, rounded to the nearest, ties away from zero."""
    return (x + (1 << (bits - 1)) - (x < 0)) >> bits


def _times_power(x: Array, bits: int) -> Array:
    return _clipped(x << bits)


def _clipped(x: Array) -> Array:
    clipped: Array = np.clip(x, -32768, _LARGEST)
    return clipped


def _wrapped(x: Array) -> Array:
    """What int16 keeps of it."""
    return ((x + 32768) & 65535) - 32768
