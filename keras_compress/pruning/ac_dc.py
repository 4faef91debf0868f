"""AC/DC: phases in which the network is sparse, and phases in which it is dense again."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_compress.core.kernels import Bound
from keras_compress.core.registry import register
from keras_compress.core.schedule import Schedule, check_sparsity, resolve_step
from keras_compress.core.ste import value_of
from keras_compress.core.transform import LATENT
from keras_compress.pruning.pruner import MASK
from keras_compress.pruning.ranked import RankedPruner

Tensor = Any


@register("schedule")
class AlternatingSparsity(Schedule):
    """A sparsity and 0 in turns, the sparsity first and from `end_step` on.

    Args:
        target_sparsity: Share of zeros of a compressed phase, in [0, 1).
        begin_step: Begin of the first compressed phase.
        end_step: Begin of the last one, which has no end.
        frequency: Steps of a phase.
        steps_per_epoch: If given, `begin_step` and `end_step` are epochs.
        total_steps: If given, `begin_step` and `end_step` are fractions of it.

    **Reference**: Peste et al., "AC/DC: Alternating compressed/decompressed training of deep neural networks" (2021),
    algorithm 1.

    >>> schedule = AlternatingSparsity(0.75, begin_step=1, end_step=7, frequency=2)
    >>> [float(schedule(step)) for step in range(9)]
    [0.0, 0.75, 0.75, 0.0, 0.0, 0.75, 0.75, 0.75, 0.75]
    """

    def __init__(
        self,
        target_sparsity: float,
        begin_step: float,
        end_step: float,
        frequency: int = 100,
        *,
        steps_per_epoch: int | None = None,
        total_steps: int | None = None,
    ) -> None:
        self.target_sparsity = check_sparsity("target_sparsity", target_sparsity)
        begin = resolve_step(begin_step, steps_per_epoch, total_steps, "begin_step")
        end = resolve_step(end_step, steps_per_epoch, total_steps, "end_step")
        if end <= begin:
            raise ValueError(f"Expected `end_step` after `begin_step`. Received: begin_step={begin}, end_step={end}")
        super().__init__(begin, end, frequency)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{"target_sparsity": 0.75, "begin_step": 1, "end_step": 9, "frequency": 3}]

    def __call__(self, step: Tensor) -> Tensor:
        step = ops.cast(step, "int64")
        compressed = (step - self.begin_step) // self.frequency % 2 == 0
        sparse = ops.logical_and(step >= self.begin_step, ops.logical_or(compressed, step >= self.end_step))
        return ops.where(sparse, ops.cast(self.target_sparsity, "float32"), ops.cast(0.0, "float32"))

    def get_config(self) -> dict[str, Any]:
        return {"target_sparsity": self.target_sparsity, **super().get_config()}


@register("weight_transform")
class AcDcPruner(RankedPruner):
    """Keeps the weights of largest magnitude in compressed phases, and trains all of them in between.

    **Forward** `y = mask * w`; the mask is chosen by magnitude where a compressed phase begins, and all ones in a
    decompressed one. **Gradient** `dy/dw = mask`.

    Where a decompressed phase begins, the weights that were zero go on from zero.

    Args:
        schedule: `AlternatingSparsity(0.9, begin_step, end_step, frequency)`. The paper warms up dense for a tenth of
            the training, alternates in phases of five epochs, and ends with a longer compressed one.

    **Reference**: Peste et al., "AC/DC: Alternating compressed/decompressed training of deep neural networks" (2021),
    algorithm 1.
    **Deviations**: each weight reaches the sparsity; the paper has one threshold for all. Behind another transform in
    the list, weights go on from their latent value.
    """

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [
            {"schedule": AlternatingSparsity(0.75, begin_step=0, end_step=4, frequency=2)},
            {"schedule": AlternatingSparsity(0.5, begin_step=0, end_step=5, frequency=1)},
        ]

    def unit_scores(self, weight: Tensor) -> Tensor:
        # From one compressed phase to the next one without a dense one between them, zeros stay.
        return tf.reshape(tf.where(value_of(self.mask), tf.abs(weight), -1.0), [-1])

    def update(self, weight: Tensor) -> list[tuple[keras.Variable, Tensor]]:
        before = value_of(self.mask)
        (_, mask), step = super().update(weight)
        back = mask & ~before
        latent = tf.cond(tf.reduce_any(back), lambda: tf.where(back, 0.0, weight), lambda: weight)
        return [(LATENT, latent), (self.mask, mask), step]

    def kernel(self) -> Bound:
        return MASK, (value_of(self.mask),)
