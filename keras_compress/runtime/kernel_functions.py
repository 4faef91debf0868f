"""What the built-in kernels compute where they interpolate or count in fixed point, bit for bit.

LiteRT (which has no others for these in 16 bits) and TFLite-Micro share them:

- RESIZE_BILINEAR takes positions in steps of 1/1024 pixel, and the distance between two rounded to such a step: up to
  `index / 2048` of a pixel, which is some steps of the values at an edge in the picture.
- SOFTMAX, LOGISTIC and TANH of 16 bits interpolate in tables: SOFTMAX one of 512 entries for exp on [-10, 0] and one
  for the reciprocal, the others one of 256 entries, a 24th apart, for the sigmoid.

**Reference**: the integer kernels of TensorFlow Lite, written anew from what they compute; equal on the runtimes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.tflite.lstm.tables import sigmoid_of_samples, tanh_of_samples
from keras_compress.tflite.multiplier import round_twice

Array = NDArray[Any]


def resized_in_fixed_point(values: Array, height: int, width: int) -> Array:
    """Images resized bilinearly; pixels' centres are at halves.

    Args:
        values: int8 or int16, `(batch, height, width, channels)`.
        height: Of the result.
        width: Of the result.
    """
    rows, columns = _weights(values.shape[1], height), _weights(values.shape[2], width)
    # Whole numbers below 2^53 throughout: float64 holds them, and multiplies faster than integers.
    sums = np.einsum("yh,nhwc,xw->nyxc", rows, values.astype(np.float64), columns, optimize=True)
    resized: Array = np.trunc((sums + np.where(sums > 0, 2.0**19, -(2.0**19))) / 2.0**20).astype(values.dtype)
    return resized


def _weights(size: int, wanted: int) -> Array:
    """What each new position takes of each old one, in 1/1024: `(wanted, size)`."""
    step, rows = (1024 * size + wanted // 2) // wanted, np.arange(wanted)
    positions = rows * step + step // 2 - 512
    lower = np.minimum(np.maximum(positions // 1024, 0), size - 1)
    upper = np.clip(-(-positions // 1024), 0, size - 1)
    weights = np.zeros((wanted, size))
    np.add.at(weights, (rows, lower), 1024 - (positions - 1024 * lower))
    np.add.at(weights, (rows, upper), positions - 1024 * lower)
    return weights


def softmax_16(values: Array, scale: float) -> Array:
    """Softmax over the last axis, in steps of 1/32768.

    Args:
        values: int16.
        scale: Of the values.
    """
    below = values.astype(np.int64) - values.max(axis=-1, keepdims=True)
    scaled = round_twice(below, np.array(scale * 65535.0 / 10.0)) + 32767
    exponentials = _looked_up(np.maximum(scaled, -32768), _exponentials())
    sums = exponentials.sum(axis=-1, keepdims=True)
    headroom = 32 - np.frexp(sums.astype(np.float64))[1].astype(np.int64)
    shifted = ((sums << (headroom - 1)) + 2**13 >> 14) - 2**15 - 2**16
    reciprocal = _looked_up(np.clip(shifted, -32768, 32767), _reciprocals())
    right = 31 - headroom
    result: Array = np.clip(exponentials * reciprocal + (np.int64(1) << (right - 1)) >> right, 0, 32767)
    return result


@cache
def _exponentials() -> Array:
    return _table(np.exp, -10.0, 0.0)


@cache
def _reciprocals() -> Array:
    return _table(lambda x: 1.0 / (1.0 + x), 0.0, 1.0)


def _table(function: Callable[[Array], Array], low: float, high: float) -> Array:
    """513 values, each lowered by half of what interpolation is off in the middle behind it."""
    step = (high - low) / 512
    at = low + np.arange(512) * step
    sample, behind, middle = (32768.0 * function(x) for x in (at, at + step, at + step / 2))
    off = _away((behind + _away(sample)) / 2) - _away(middle)
    entries = np.append(_away(sample) - _away(off / 2), _away(32768.0 * function(np.array(high))))
    table: Array = np.clip(entries, -32768, 32767).astype(np.int64)
    return table


def _looked_up(values: Array, table: Array) -> Array:
    index, offset = 256 + (values >> 7), values & 127
    found: Array = table[index] + ((table[index + 1] - table[index]) * offset + 64 >> 7)
    return found


def logistic_16(values: Array, scale: float) -> Array:
    """Sigmoid, in steps of 1/32768.

    Args:
        values: int16.
        scale: Of the values.
    """
    return sigmoid_of_samples(_for_sigmoid(values, scale))


def tanh_16(values: Array, scale: float) -> Array:
    """Tanh, in steps of 1/32768: `2 sigmoid(2 x) - 1`.

    Args:
        values: int16.
        scale: Of the values.
    """
    return tanh_of_samples(_for_sigmoid(values, scale))


def _for_sigmoid(values: Array, scale: float) -> Array:
    """In steps of 1/12288, by a factor of 15 bits."""
    factor, shift = scale * 3.0 * 4096.0, 0
    while factor <= 32767.0 / 2 and shift <= 30:
        factor, shift = factor * 2, shift + 1
    scaled: Array = values.astype(np.int64) * int(factor) + (2**shift >> 1) >> shift
    return scaled


def _away(values: Array) -> Array:
    """Rounded, ties away from zero."""
    rounded: Array = np.copysign(np.floor(np.abs(values) + 0.5), values)
    return rounded
