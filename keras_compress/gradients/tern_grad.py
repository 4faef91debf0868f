"""TernGrad: three levels for each gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from keras_compress.core.registry import register
from keras_compress.gradients.codec import (
    Array,
    GradientCodec,
    WorkerState,
    check_integer,
    check_number,
    is_number,
    random_of,
)
from keras_compress.gradients.message import Reader, Writer
from keras_compress.gradients.packing import read_trits, write_trits


@register("gradient_codec")
class TernGrad(GradientCodec):
    """-1, 0 or 1 times the largest magnitude of a layer's gradient, by chance: right in the mean of what was clipped.

    **Clipped** `g = clip(g, -c sigma, c sigma)`, sigma the standard deviation of the layer's gradient.
    **Sent** `s = max |g|` and `t = sign(g) b`, `P(b = 1) = |g| / s`, five t in a byte (1.6 bits each). **Decoded** `s
    t`.

    Args:
        clip_factor: c, > 0; `None` does not clip.
        seed: Integer from 0.

    Raises:
        ValueError: For arguments out of range.

    **Reference**: Wen et al., "TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep Learning"
    (2017), equations 1 to 3, and 18 for clipping with c = 2.5.
    **Deviations**: each worker sends its own s; nothing is exchanged beforehand to share one. Where `c sigma` is below
    the mean of |g|, nothing is clipped: the paper's sigma is of values around 0, and that of almost equal ones, or of a
    single one, would leave nothing of them.
    """

    def __init__(self, clip_factor: float | None = 2.5, seed: int = 0) -> None:
        holds = clip_factor is None or (is_number(clip_factor) and clip_factor > 0)
        if not holds:
            check_number("clip_factor", clip_factor, "`clip_factor` > 0, or None", holds)
        self.clip_factor = clip_factor
        self.seed = check_integer("seed", seed, 0, 2**31 - 1)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"clip_factor": None, "seed": 1}]

    def write(self, name: str, gradient: Array, state: WorkerState, writer: Writer) -> None:
        values = self.clipped(gradient.reshape(-1))
        scale = np.abs(values).max(initial=np.float32(0.0))
        chance = random_of(self.seed, state, name).random(values.shape, np.float32)
        kept = chance * scale < np.abs(values)
        writer.array(scale[None], "<f4")
        write_trits(writer, np.where(kept, np.where(values < 0, 0, 2), 1).astype(np.uint8))

    def clipped(self, values: Array) -> Array:
        """A gradient without what is further from 0 than `clip_factor` standard deviations, if they tell its size."""
        if self.clip_factor is None or not values.size:
            return values
        # Squares leave float32.
        limit = np.float32(self.clip_factor * values.std(dtype=np.float64))
        if limit < np.abs(values).mean(dtype=np.float64):
            return values
        clipped: Array = np.clip(values, -limit, limit)
        return clipped

    def read(self, reader: Reader, shape: tuple[int, ...]) -> Array:
        scale = reader.array("<f4", 1)[0]
        trits = read_trits(reader, math.prod(shape)).astype(np.float32)
        values: Array = (scale * (trits - np.float32(1.0))).reshape(shape)
        return values
