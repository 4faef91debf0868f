"""Pattern pruning: each 3x3 kernel keeps four weights, in one of a few patterns around its centre."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.core.registry import register
from keras_compress.core.schedule import ConstantSparsity, Schedule
from keras_compress.core.ste import value_of
from keras_compress.pruning.pruner import Pruner

Tensor = Any
_CENTRE = 4
_AROUND = [place for place in range(9) if place != _CENTRE]
# Rows of nine, one for each pattern: the centre and three of the eight around it.
PATTERNS = np.array(
    [[float(place == _CENTRE or place in three) for place in range(9)] for three in itertools.combinations(_AROUND, 3)],
    np.float32,
)


@register("weight_transform")
class KernelPatternPruner(Pruner):
    """Keeps four weights of each 3x3 kernel: its centre and three others, in one of a few patterns.

    **Forward** `y = mask * w`. **Gradient** see `Pruner`.

    The natural pattern of a kernel (one input channel and one output channel) is its centre with the three largest
    magnitudes around it, one of 56. The patterns that are natural to most kernels of the weight are its set; each
    kernel then takes that one of the set that keeps most of its squares. 5 of 9 weights are zero.

    Args:
        schedule: When to act; its sparsity does not count.
        number_of_patterns: Size of the set, 1 to 56; the paper takes 4 to 12, mostly 8.
        regrow: Let pruned weights come back.

    Raises:
        ValueError: For a number out of range, or a weight whose first two axes are not 3 and 3.

    **Reference**: Niu et al., "PatDNN: achieving real-time DNN execution on mobile devices with pattern-based weight
    pruning" (2020), sections 3 and 4.1.
    **Deviations**: a set for each weight, where the paper has one for all layers. Patterns are applied at once, not
    drawn to by ADMM. Whole kernels (connectivity pruning) stay.
    """

    has_target = False

    def __init__(
        self,
        schedule: Schedule,
        number_of_patterns: int = 8,
        *,
        regrow: bool = False,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(schedule, regrow=regrow, name=name, trainable=trainable)
        whole = isinstance(number_of_patterns, int) and not isinstance(number_of_patterns, bool)
        if not whole or not 1 <= number_of_patterns <= len(PATTERNS):
            raise ValueError(
                f"Expected `number_of_patterns` to be an integer from 1 to {len(PATTERNS)}. "
                f"Received: number_of_patterns={number_of_patterns!r}"
            )
        self.number_of_patterns = number_of_patterns

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{"schedule": ConstantSparsity(0.5, begin_step=0, frequency=1), "number_of_patterns": 4}]

    @classmethod
    def refuses(cls, shape: Sequence[int]) -> str | None:
        if len(shape) == 4 and tuple(shape[:2]) == (3, 3):
            return None
        return f"its weight of shape {tuple(shape)} has no 3x3 kernels"

    def create_variables(self) -> None:
        if reason := self.refuses(self.weight_shape):
            raise ValueError(f"Expected a weight of shape (3, 3, inputs, outputs). Received: {self.name}, {reason}")
        super().create_variables()

    def choose(self, scores: Tensor, sparsity: Tensor) -> Tensor:
        kernels = tf.transpose(tf.reshape(scores, (9, -1)))
        patterns = tf.constant(PATTERNS)
        # Of weights that are out the scores are -1: a kernel that has its pattern keeps it.
        around = tf.gather(kernels, _AROUND, axis=1)
        places = tf.gather(_AROUND, tf.math.top_k(around, 3).indices)
        naturals = tf.reduce_sum(tf.one_hot(places, 9), axis=1) @ tf.transpose(patterns)
        counts = tf.reduce_sum(tf.one_hot(tf.argmax(naturals, axis=1), len(PATTERNS)), axis=0)
        chosen = tf.gather(patterns, tf.math.top_k(counts, self.number_of_patterns).indices)
        squares = tf.sign(kernels) * tf.square(kernels)
        best = tf.argmax(squares @ tf.transpose(chosen), axis=1)
        return tf.reshape(tf.transpose(tf.gather(chosen, best)) > 0.0, self.weight_shape)

    def patterns(self) -> list[list[list[int]]]:
        """The patterns that are in use now, each as three rows of 0 and 1."""
        rows = np.unique(np.asarray(value_of(self.mask)).reshape(9, -1).T, axis=0)
        found: list[list[list[int]]] = rows.astype(int).reshape(-1, 3, 3).tolist()
        return found

    def summary_values(self) -> dict[str, float]:
        return {**super().summary_values(), "patterns": float(len(self.patterns()))}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "number_of_patterns": self.number_of_patterns}
