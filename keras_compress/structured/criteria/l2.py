"""L2 norm of the filters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from keras_compress.core.registry import register
from keras_compress.structured.criteria.criterion import Scores, WeightCriterion


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
