"""Distance from the geometric median of a layer's filters."""

from __future__ import annotations

import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_compress.core.registry import register
from keras_compress.structured.criteria.criterion import Scores, Tensor, WeightCriterion


@register("channel_criterion")
class FPGM(WeightCriterion):
    """`sum_j ||w_i - w_j||_2` over the filters j of the same layer: those in the middle of the others go first.

    **Reference**: He et al., "Filter pruning via geometric median for deep neural networks acceleration" (2019),
    equations 6 to 8.
    **Deviations**: where several layers make a channel together (a residual sum), the mean of theirs.
    """

    def channel_scores(self, channels: NDArray[np.float32]) -> Scores:
        scores: Scores = distances(channels).sum(axis=1, dtype=np.float64)
        return scores

    def tensor_scores(self, rows: Tensor) -> Tensor:
        centred = rows - ops.mean(rows, axis=0, keepdims=True)
        products = ops.matmul(centred, ops.transpose(centred))
        squares = ops.sum(ops.square(centred), axis=1)
        squared = ops.maximum(squares[:, None] + squares[None, :] - 2.0 * products, 0.0)
        # What is left of a distance from itself is rounding.
        return ops.sum(ops.sqrt(squared * (1.0 - ops.eye(squares.shape[0]))), axis=1)


def distances(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Euclidean distances of all rows from each other.

    >>> distances(np.array([[0.0, 0.0], [3.0, 4.0]])).tolist()
    [[0.0, 5.0], [5.0, 0.0]]
    """
    # Around their mean, where less is lost in the differences of squares.
    centred = rows - rows.mean(axis=0)
    products = centred @ centred.T
    squares = np.diagonal(products)
    squared = np.maximum(squares[:, None] + squares[None, :] - 2.0 * products, 0.0)
    np.fill_diagonal(squared, 0.0)
    found: NDArray[np.float32] = np.sqrt(squared)
    return found
