"""Random numbers that depend on a seed, the weight and the step alone: training resumes bit-equal."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from keras import ops

from keras_compress.core.context import counter
from keras_compress.core.kernels import worth_compiling
from keras_compress.core.ste import compiled, shared, value_of

Tensor = Any
# Weights of up to so many elements are drawn, and computed with, by TensorFlow's operators: see `Kernel.small`. A
# network has many such, and a program for each is not won back.
SMALL = 65_536


def check_seed(seed: Any) -> int:
    """The seed as an integer from 0 to 2^31 - 1.

    Raises:
        ValueError: For anything else.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**31:
        raise ValueError(f"Expected `seed` to be an integer from 0 to {2**31 - 1}. Received: seed={seed}")
    return seed


def _noise(like: Tensor, seeds: Tensor) -> Tensor:
    """Numbers from [-1/2, 1/2) in steps of 2^-16, in the shape of `like`.

    They are made of integers: from those XLA and TensorFlow draw the same, from floats they do not. Each integer gives
    two, and they are a program of their own: fused into another one, XLA draws them several times.

    Args:
        like: Tensor of the shape.
        seeds: Two int64 numbers.
    """
    count = tf.size(like)
    integers = tf.random.stateless_uniform([(count + 1) // 2], seeds, None, None, "uint32", alg="philox")
    high, low = tf.bitwise.right_shift(integers, 16), tf.bitwise.bitwise_and(integers, 0xFFFF)
    halves = tf.cast(tf.concat([high, low], 0)[:count], "float32")
    return tf.reshape(halves * 2.0**-16 - 0.5, tf.shape(like))


uniform_noise = compiled(_noise)
_of_any_size = shared([tf.TensorSpec([None], tf.float32), tf.TensorSpec([2], tf.int64)])(_noise)


def digest_of(weight: Tensor) -> int:
    """32 bits that tell a weight from others: what keeps layers of one seed from drawing the same numbers."""
    return zlib.crc32(ops.convert_to_numpy(weight).tobytes())


class Stream:
    """The random numbers of one weight: a digest of its first values, kept in a variable of its transform.

    Args:
        transform: Gets the variable.
        seed: The user's seed.
    """

    def __init__(self, transform: Any, seed: int) -> None:
        self.seed = seed
        self.digest = counter(transform, "stream")

    def begin(self, weight: Tensor) -> None:
        """Take the digest of the weight."""
        self.digest.assign(digest_of(weight))

    def key(self, step: Tensor) -> Tensor:
        """What the numbers of a step depend on: two int64 numbers."""
        # 32 bits of the weight above the 31 of the seed.
        stream = tf.bitwise.left_shift(value_of(self.digest), tf.constant(31, tf.int64))
        return tf.stack([stream + self.seed, step])

    def uniform(self, shape: Sequence[int], step: Tensor) -> Tensor:
        """Numbers in (0, 1) of a shape: odd multiples of 2^-17."""
        like = tf.zeros([math.prod(shape)])
        noise = uniform_noise if worth_compiling(like, SMALL) else _of_any_size
        return tf.reshape(noise(like, self.key(step)) + (0.5 + 2.0**-17), shape)
