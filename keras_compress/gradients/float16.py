"""Half precision: the plain baseline."""

from __future__ import annotations

import math

import numpy as np

from keras_compress.core.registry import register
from keras_compress.gradients.codec import Array, GradientCodec, WorkerState
from keras_compress.gradients.message import Reader, Writer

_LARGEST = float(np.finfo(np.float16).max)


@register("gradient_codec")
class Float16Codec(GradientCodec):
    """Each value in 16 bits, IEEE 754 half precision; half the bytes.

    **Sent** `float16(clip(g, -65504, 65504))`. The error is at most 2^-11 of the value, or 2^-25 below 2^-14.
    """

    def write(self, name: str, gradient: Array, state: WorkerState, writer: Writer) -> None:
        writer.array(np.clip(gradient, -_LARGEST, _LARGEST), "<f2")

    def read(self, reader: Reader, shape: tuple[int, ...]) -> Array:
        return reader.array("<f2", math.prod(shape)).astype(np.float32).reshape(shape)
