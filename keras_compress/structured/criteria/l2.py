"""L2 norm of the filters."""

from __future__ import annotations

import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_compress.core.registry import register
from keras_compress.structured.criteria.criterion import Scores, Tensor, WeightCriterion


@register("channel_criterion")
class L2(WeightCriterion):
    """`sqrt(sum w^2)` over the weights that make a channel.

    **Reference**: He et al., "Soft filter pruning for accelerating deep convolutional neural networks" (2018),
    equation 2 with p = 2.
    **Deviations**: where several layers make a channel together (a residual sum), the mean of theirs.
    """

    def channel_scores(self, channels: NDArray[np.float32]) -> Scores:
        scores: Scores = np.sqrt(np.square(channels, dtype=np.float64).sum(axis=1))
        return scores

    def tensor_scores(self, rows: Tensor) -> Tensor:
        return ops.sqrt(ops.sum(ops.square(rows), axis=1))
