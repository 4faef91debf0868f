"""signSGD with majority vote."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_compress.core.registry import register
from keras_compress.gradients.codec import Array, GradientCodec, Gradients, WorkerState, check_number, is_number
from keras_compress.gradients.message import Reader, Writer
from keras_compress.gradients.packing import read_bits, write_bits


@register("gradient_codec")
class SignSGD(GradientCodec):
    """The sign of each value in one bit, and a vote among workers.

    **Sent** `sign(g)`; with `momentum` (Signum) `sign(m)`, `m = momentum m + (1 - momentum) g`.
    **Applied** `sign(sum of signs)`: 1, -1, or 0 where votes are equal. Steps are as long as the learning rate: take
    a small one, and SGD without momentum.

    Args:
        momentum: 0 to below 1.

    Raises:
        ValueError: For arguments out of range.

    **Reference**: Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems" (2018), algorithms 2
    and 3.
    **Deviations**: a value that is exactly 0 votes for nobody (a gradient that has such values, as an embedding's,
    takes a second bit for each value), where one bit would have to move it.
    """

    def __init__(self, momentum: float = 0.0) -> None:
        self.momentum = check_number(
            "momentum", momentum, "0 <= `momentum` < 1", is_number(momentum) and 0 <= momentum < 1
        )
        self.remembers = ("momentum",) if self.momentum else ()
        self.corrects_momentum = bool(self.momentum)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"momentum": 0.5}]

    def write(self, name: str, gradient: Array, state: WorkerState, writer: Writer) -> None:
        values = gradient
        if self.momentum:
            key = f"momentum/{name}"
            values = np.float32(self.momentum) * state.arrays[key] + np.float32(1.0 - self.momentum) * gradient
            state.arrays[key] = values
        values = values.reshape(-1)
        voting = values != 0
        writer.numbers(int(voting.sum()))
        if not voting.all():
            write_bits(writer, voting, 1)
        write_bits(writer, values[voting] > 0, 1)

    def read(self, reader: Reader, shape: tuple[int, ...]) -> Array:
        size = math.prod(shape)
        (count,) = reader.numbers(1)
        voting = read_bits(reader, size, 1).astype(bool) if count != size else np.ones(size, bool)
        found = np.zeros(size, np.float32)
        found[voting] = read_bits(reader, count, 1).astype(np.float32) * 2.0 - 1.0
        return found.reshape(shape)

    def combine(self, decoded: Sequence[Gradients]) -> dict[str, Array]:
        return {name: np.sign(np.sum([each[name] for each in decoded], axis=0)) for name in decoded[0]}
