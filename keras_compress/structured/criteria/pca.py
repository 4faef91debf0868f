"""What a channel gives to the principal components that hold most of the energy."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_compress.core.registry import register
from keras_compress.data.examples import Examples
from keras_compress.structured.channel_graph import ChannelGraph
from keras_compress.structured.criteria.activations import activations, summed
from keras_compress.structured.criteria.criterion import Criterion, Scores
from keras_compress.structured.criteria.fallback import with_norms


@register("channel_criterion")
class PCA(Criterion):
    """`sum_k lambda_k v_ki^2` over the first K principal components: the variance of channel i that they explain.

    Each position of each example is a sample of all channels; lambda_k and v_k are eigenvalues and eigenvectors of
    their covariance, K the smallest number with `sum_{k <= K} lambda_k >= energy * sum_k lambda_k`. Channels that vary
    little, or only apart from what most of them do, go first.

    Args:
        energy: Share of the variance that the components hold, in (0, 1].

    **Reference**: Garg et al., "A low effort approach to structured CNN design using PCA" (2020), section III:
    components that hold a share of the energy; their number is the width a layer needs. A channel's part in them is
    its communality: Jolliffe, "Principal component analysis" (2002), section 6.3.
    **Deviations**: channels of the trained model are ranked, where Garg et al. train a new one of that width; values
    are taken where they are read, after the activation and before pooling: the mean where there are several places.
    Groups that are read inside a layer (heads of an attention) are ranked by the L1 norm, and a warning names them.
    """

    needs = frozenset({"inputs"})

    def __init__(self, energy: float = 0.99) -> None:
        if not 0.0 < energy <= 1.0:
            raise ValueError(f"Expected `energy` in (0, 1]. Received: energy={energy}")
        self.energy = energy

    def scores(self, graph: ChannelGraph, examples: Examples) -> Scores:
        total, count = np.zeros(graph.unit_count), np.zeros(graph.unit_count)
        places = activations(graph)
        for each, moments in zip(places, summed(graph, examples, places, _moments), strict=True):
            total += np.bincount(each.units, communalities(covariance(*moments), self.energy), graph.unit_count)
            count += np.bincount(each.units, minlength=graph.unit_count)
        return with_norms(graph, total / np.maximum(count, 1), count > 0, "no place where its channels are apart")

    def get_config(self) -> dict[str, Any]:
        return {"energy": self.energy}


def _moments(rows: tf.Tensor) -> list[tf.Tensor]:
    return [
        tf.linalg.matmul(rows, rows, transpose_a=True),
        tf.reduce_sum(rows, 0),
        tf.cast(tf.shape(rows)[0], tf.float32),
    ]


def covariance(squares: Any, sums: Any, count: Any) -> NDArray[np.float64]:
    """Covariance from sums of products, sums and the number of samples.

    >>> covariance(np.array([[20.0]]), np.array([6.0]), 2.0).tolist()
    [[1.0]]
    """
    mean = sums / count
    found: NDArray[np.float64] = squares / count - np.outer(mean, mean)
    return found


def communalities(matrix: NDArray[np.float64], energy: float) -> Scores:
    """The part of each variance that the leading components hold.

    >>> communalities(np.diag([8.0, 1.0, 1.0]), 0.8).tolist()
    [8.0, 0.0, 0.0]
    """
    # float32: half the time, and small eigenvalues do not count.
    values, vectors = np.linalg.eigh(matrix.astype(np.float32))
    values, vectors = values.astype(np.float64), vectors.astype(np.float64)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    held = np.cumsum(values)
    # One part in a million is rounding.
    number = int(np.searchsorted(held, energy * held[-1] * (1.0 - 1e-6))) + 1
    scores: Scores = np.square(vectors[:, :number]) @ values[:number]
    return scores
