"""Deep Gradient Compression: the largest values only, the others later."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from keras_compress.core.registry import register
from keras_compress.gradients.codec import (
    Array,
    GradientCodec,
    Gradients,
    WorkerState,
    check_integer,
    check_number,
    is_number,
)
from keras_compress.gradients.message import Reader, Writer
from keras_compress.gradients.packing import read_keys, write_keys

# Sparsities of the warm-up: 75 %, 93.75 %, 98.4375 %, 99.6 %.
_WARM_UP_STAGES = 4


@register("gradient_codec")
class DeepGradientCompression(GradientCodec):
    """The values of largest magnitude of each gradient; what is not sent is kept, with momentum, and sent later.

    **Clipped** by norm: all gradients of a worker together to at most `clip_norm / sqrt(workers)`.
    **Kept** `u = momentum u + g`, `v = v + u`. **Sent** v where `|v|` is among the largest `(1 - sparsity) n`, 1 at
    least; there u and v become 0 (momentum factor masking). **Decoded** what was sent, 0 elsewhere.

    The momentum is the codec's: take SGD without momentum. With `momentum=0` it is top-k with error feedback.

    Args:
        sparsity: Share that is not sent, 0 to below 1.
        momentum: 0 to below 1.
        clip_norm: Largest norm of the whole gradient, > 0; `None` does not clip.
        warm_up_steps: Steps, the paper's are of 4 epochs, in whose quarters 75, 93.75, 98.4 and 99.6 % are not sent,
            `sparsity` at the most.

    Raises:
        ValueError: For arguments out of range.

    **Reference**: Lin et al., "Deep Gradient Compression: Reducing the Communication Bandwidth for Distributed
    Training" (2018), algorithm 4, sections 3.1 to 3.3.
    **Deviations**: the threshold of the largest is found among all values, not by samples; keys are written by
    differences (`write_keys`) in place of run lengths of 16 bits.
    """

    remembers = ("velocity", "momentum")

    def __init__(
        self,
        sparsity: float = 0.999,
        momentum: float = 0.9,
        clip_norm: float | None = None,
        warm_up_steps: int = 0,
    ) -> None:
        for name, value in (("sparsity", sparsity), ("momentum", momentum)):
            check_number(name, value, f"0 <= `{name}` < 1", is_number(value) and 0 <= value < 1)
        holds = clip_norm is None or (is_number(clip_norm) and clip_norm > 0)
        if not holds:
            check_number("clip_norm", clip_norm, "`clip_norm` > 0, or None", holds)
        self.sparsity, self.momentum, self.clip_norm = float(sparsity), float(momentum), clip_norm
        self.warm_up_steps = check_integer("warm_up_steps", warm_up_steps, 0, 2**31 - 1)
        self.corrects_momentum = self.momentum > 0

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"sparsity": 0.5, "momentum": 0.0, "clip_norm": 0.5, "warm_up_steps": 4}]

    def sparsity_at(self, step: int) -> float:
        """The share that is not sent at a step.

        >>> codec = DeepGradientCompression(0.999, warm_up_steps=8)
        >>> [round(codec.sparsity_at(step), 6) for step in (0, 2, 4, 6, 8)]
        [0.75, 0.9375, 0.984375, 0.996094, 0.999]
        """
        if step >= self.warm_up_steps:
            return self.sparsity
        stage = step * _WARM_UP_STAGES // self.warm_up_steps
        return min(self.sparsity, 1.0 - 0.25 ** (stage + 1))

    def write_all(self, gradients: Gradients, state: WorkerState, writer: Writer) -> None:
        super().write_all(self._clipped(gradients, state.workers), state, writer)

    def _clipped(self, gradients: Gradients, workers: int) -> Gradients:
        if self.clip_norm is None:
            return gradients
        norm = math.sqrt(sum(float(np.square(each, dtype=np.float64).sum()) for each in gradients.values()))
        share = self.clip_norm / math.sqrt(workers) / norm if norm else 1.0
        return gradients if share >= 1.0 else {name: np.float32(share) * each for name, each in gradients.items()}

    def write(self, name: str, gradient: Array, state: WorkerState, writer: Writer) -> None:
        momentum = (np.float32(self.momentum) * state.arrays[f"momentum/{name}"] + gradient).reshape(-1)
        velocity = state.arrays[f"velocity/{name}"].reshape(-1) + momentum
        keys = _largest(np.abs(velocity), self.sparsity_at(state.step))
        writer.numbers(len(keys))
        write_keys(writer, keys)
        writer.array(velocity[keys], "<f4")
        velocity[keys] = momentum[keys] = 0.0
        state.arrays[f"momentum/{name}"] = momentum.reshape(gradient.shape)
        state.arrays[f"velocity/{name}"] = velocity.reshape(gradient.shape)

    def read(self, reader: Reader, shape: tuple[int, ...]) -> Array:
        (count,) = reader.numbers(1)
        keys = read_keys(reader, count)
        found = np.zeros(math.prod(shape), np.float32)
        found[keys] = reader.array("<f4", count)
        return found.reshape(shape)


def _largest(magnitudes: Array, sparsity: float) -> np.ndarray:
    """Keys of the largest values that are not 0, ascending."""
    # 1 - 0.999 is a little more than 0.001.
    count = min(max(1, math.ceil((1.0 - sparsity) * magnitudes.size - 1e-6)), magnitudes.size)
    if count < magnitudes.size:
        keys = np.sort(np.argpartition(magnitudes, magnitudes.size - count)[magnitudes.size - count :])
    else:
        keys = np.arange(magnitudes.size)
    return keys[magnitudes[keys] > 0]
