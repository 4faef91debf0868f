"""DoReFa's quantizer of gradients, for what workers send."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from keras_compress.core.registry import register
from keras_compress.gradients.codec import Array, GradientCodec, WorkerState, check_integer, random_of
from keras_compress.gradients.message import Reader, Writer
from keras_compress.gradients.packing import read_bits, write_bits
from keras_compress.quantizers.gradient_quantizer import from_levels, to_levels


@register("gradient_codec")
class DoReFaCodec(GradientCodec):
    """Each value in k bits between minus and plus the largest magnitude, rounded by chance: right in the mean.

    **Decoded** `f(g) = 2 m (quantize_k(g / (2m) + 1/2 + N(k)) - 1/2)`, `m` the largest `|g|` of the gradient, as
    `kc.DoReFaGradient` has it for what comes back through a layer. 0 is none of the levels.

    Args:
        bits: k, 1 to 8.
        seed: Integer from 0.

    Raises:
        ValueError: For arguments out of range.

    **Reference**: Zhou et al., "DoReFa-Net" (2016), equation 12, there for gradients of activations.
    """

    def __init__(self, bits: int = 6, seed: int = 0) -> None:
        self.bits = check_integer("bits", bits, 1, 8)
        self.seed = check_integer("seed", seed, 0, 2**31 - 1)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"bits": 2, "seed": 1}]

    def write(self, name: str, gradient: Array, state: WorkerState, writer: Writer) -> None:
        values = gradient.reshape(-1)
        largest = np.abs(values).max(initial=np.float32(0.0), keepdims=True)
        noise = random_of(self.seed, state, name).random(values.shape, np.float32) - np.float32(0.5)
        writer.array(largest, "<f4")
        write_bits(writer, np.asarray(to_levels(values, largest, noise, self.bits)).astype(np.uint8), self.bits)

    def read(self, reader: Reader, shape: tuple[int, ...]) -> Array:
        largest = reader.array("<f4", 1)
        levels = read_bits(reader, math.prod(shape), self.bits).astype(np.float32)
        return np.asarray(from_levels(levels, largest, self.bits), np.float32).reshape(shape)
