"""1-bit SGD with error feedback."""

from __future__ import annotations

import math

import numpy as np

from keras_compress.core.registry import register
from keras_compress.gradients.codec import Array, GradientCodec, WorkerState
from keras_compress.gradients.message import Reader, Writer
from keras_compress.gradients.packing import read_bits, write_bits


@register("gradient_codec")
class OneBitSGD(GradientCodec):
    """One bit for each value, two numbers for each output, and what was lost goes into the next message.

    **Sent** `g' = g + e`: whether `g' >= 0`, and for each output the mean of its values `>= 0` and of those `< 0`.
    **Decoded** that mean. **Kept** `e = g' - decoded`.

    **Reference**: Seide et al., "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel Distributed
    Training of Speech DNNs" (2014), section 3: the threshold 0, one pair of values for each column. The last axis of
    a Keras weight is its output; a weight of one axis has one pair.
    """

    remembers = ("error",)

    def write(self, name: str, gradient: Array, state: WorkerState, writer: Writer) -> None:
        key = f"error/{name}"
        wanted = _columns(gradient + state.arrays[key])
        high = wanted >= 0
        above, below = _mean(wanted, high), _mean(wanted, ~high)
        writer.array(np.stack([below, above]), "<f4")
        write_bits(writer, high.reshape(-1), 1)
        state.arrays[key] = (wanted - np.where(high, above, below)).reshape(gradient.shape)

    def read(self, reader: Reader, shape: tuple[int, ...]) -> Array:
        size, columns = math.prod(shape), _count(shape)
        below, above = reader.array("<f4", 2 * columns).reshape(2, columns)
        high = read_bits(reader, size, 1).astype(bool).reshape(-1, columns)
        return np.where(high, above, below).reshape(shape)


def _count(shape: tuple[int, ...]) -> int:
    return shape[-1] if len(shape) > 1 else 1


def _columns(values: Array) -> Array:
    return values.reshape(-1, _count(values.shape))


def _mean(values: Array, where: np.ndarray) -> Array:
    """Of each column, over some of its values; 0 where there are none."""
    total = np.where(where, values, np.float32(0.0)).sum(axis=0)
    found: Array = (total / np.maximum(where.sum(axis=0), 1)).astype(np.float32)
    return found
