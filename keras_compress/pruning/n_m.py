"""N:M pruning: a fixed number of zeros in every group of consecutive inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from keras import ops

from keras_compress.core.registry import register
from keras_compress.core.schedule import ConstantSparsity, Schedule
from keras_compress.pruning.patterns import check_m_by_n
from keras_compress.pruning.pruner import Pruner

Tensor = Any


@register("weight_transform")
class NMPruner(Pruner):
    """Zeroes the m smallest of every n consecutive inputs of an output.

    **Forward** `y = mask * w`; inputs are all axes of the weight but those of the outputs, flattened: `(kernel height,
    width, inputs)` of a convolution, a row of an Embedding. A group cut off at the end is left dense. The schedule says
    only when the mask is chosen anew: once it has begun, m of n are zero.

    Args:
        sparsity_m_by_n: `(m, n)`, m zeros in every n, `1 <= m < n`.
        schedule: When to act.
        regrow: Let pruned weights come back.

    **Reference**: Mishra et al., "Accelerating sparse deep neural networks" (2021).
    """

    def __init__(
        self, sparsity_m_by_n: Sequence[int], schedule: Schedule, *, regrow: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(schedule, regrow=regrow, **kwargs)
        self.sparsity_m_by_n = check_m_by_n(sparsity_m_by_n)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{"sparsity_m_by_n": (2, 4), "schedule": ConstantSparsity(0.5, begin_step=0, frequency=1)}]

    def choose(self, scores: Tensor, sparsity: Tensor) -> Tensor:
        zeros, group = self.sparsity_m_by_n
        inputs, outputs = self.matrix_shape()
        by_output = ops.transpose(self.to_matrix(scores))
        whole = inputs // group * group
        grouped = ops.reshape(by_output[:, :whole], (-1, group))
        order = tf.argsort(grouped, direction="DESCENDING", stable=True)
        kept = tf.argsort(order) < group - zeros
        rest = ops.ones((outputs, inputs - whole), dtype="bool")
        mask = ops.concatenate([ops.reshape(kept, (outputs, whole)), rest], axis=1)
        return self.from_matrix(ops.transpose(mask))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "sparsity_m_by_n": list(self.sparsity_m_by_n)}
