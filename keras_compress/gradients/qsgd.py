"""QSGD: stochastic rounding to levels of a bucket's norm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from keras_compress.core.registry import register
from keras_compress.gradients.codec import Array, GradientCodec, WorkerState, check_integer, random_of
from keras_compress.gradients.message import Reader, Writer
from keras_compress.gradients.packing import read_bits, write_bits


@register("gradient_codec")
class QSGD(GradientCodec):
    """Values of a bucket as shares of its Euclidean norm, rounded up or down by chance: right in the mean.

    **Sent** `|v|_2` of each bucket, and of each value its sign and `floor(s |v_i| / |v|_2 + u)`, `u ~ U[0, 1)`, with
    `s = 2^(bits - 1) - 1` levels. **Decoded** `|v|_2 sign(v_i) level / s`.
    The mean is `g`, the variance of a bucket of n values at most `min(n / s^2, sqrt(n) / s) |v|_2^2` (lemma 3.1).

    Args:
        bits: Of a value, its sign one of them, 2 to 8.
        bucket_size: Values that share a norm, 1 at least; the last bucket of a gradient may be smaller.
        seed: Integer from 0.

    Raises:
        ValueError: For arguments out of range.

    **Reference**: Alistarh et al., "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding" (2017),
    section 3.
    **Deviations**: plain bits in place of Elias coding: their number does not depend on the values.
    """

    def __init__(self, bits: int = 4, bucket_size: int = 512, seed: int = 0) -> None:
        self.bits = check_integer("bits", bits, 2, 8)
        self.bucket_size = check_integer("bucket_size", bucket_size, 1, 2**31 - 1)
        self.seed = check_integer("seed", seed, 0, 2**31 - 1)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"bits": 2, "bucket_size": 5, "seed": 1}]

    @property
    def _levels(self) -> np.float32:
        levels: np.float32 = np.float32(2 ** (self.bits - 1) - 1)
        return levels

    def write(self, name: str, gradient: Array, state: WorkerState, writer: Writer) -> None:
        buckets = self._in_buckets(gradient.reshape(-1))
        # Squares of small numbers leave float32.
        norms = np.sqrt(np.square(buckets, dtype=np.float64).sum(axis=1)).astype(np.float32)
        shares = np.abs(buckets) / np.where(norms == 0, np.float32(1.0), norms)[:, None]
        chance = random_of(self.seed, state, name).random(buckets.shape, np.float32)
        levels = np.minimum(np.floor(self._levels * shares + chance), self._levels).astype(np.uint8)
        levels |= (buckets < 0).astype(np.uint8) << np.uint8(self.bits - 1)
        writer.array(norms, "<f4")
        write_bits(writer, levels.reshape(-1)[: gradient.size], self.bits)

    def read(self, reader: Reader, shape: tuple[int, ...]) -> Array:
        size = math.prod(shape)
        norms = reader.array("<f4", -(-size // self.bucket_size))
        stored = read_bits(reader, size, self.bits)
        highest = 2 ** (self.bits - 1)
        shares = (stored % highest).astype(np.float32) / self._levels
        buckets: Array = self._in_buckets(np.where(stored >= highest, -shares, shares)) * norms[:, None]
        return buckets.reshape(-1)[:size].reshape(shape)

    def _in_buckets(self, values: Array) -> Array:
        padded = np.zeros(-(-len(values) // self.bucket_size) * self.bucket_size, np.float32)
        padded[: len(values)] = values
        return padded.reshape(-1, self.bucket_size)
