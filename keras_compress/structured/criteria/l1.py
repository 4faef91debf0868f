"""L1 norm of the filters."""

from __future__ import annotations

import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_compress.core.registry import register
from keras_compress.structured.criteria.criterion import Scores, Tensor, WeightCriterion


@register("channel_criterion")
class L1(WeightCriterion):
    """`sum |w|` over the weights that make a channel.

    **Reference**: Li et al., "Pruning filters for efficient ConvNets" (2017), section 3.1.
    **Deviations**: where several layers make a channel together (a residual sum), the mean of theirs.
    """

    def channel_scores(self, channels: NDArray[np.float32]) -> Scores:
        scores: Scores = np.abs(channels).sum(axis=1, dtype=np.float64)
        return scores

    def tensor_scores(self, rows: Tensor) -> Tensor:
        return ops.sum(ops.abs(rows), axis=1)
