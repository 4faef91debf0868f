"""Optimal Brain Damage: the loss as a parabola in each weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.core.registry import register
from keras_compress.data.examples import Examples
from keras_compress.pruning.criteria.gradients import LossGradients, as_arrays, size_of, weighted_mean
from keras_compress.pruning.criteria.saliency import Saliency, Scores, check_count
from keras_compress.pruning.scored import ScoredModel

Tensor = Any


@register("weight_criterion")
class OBD(Saliency):
    """`h w^2 / 2`, h the diagonal of the Hessian of the mean loss: what the loss gains at a minimum without the weight.

    It is the expansion `dE = sum g_i dw_i + 1/2 sum h_ii dw_i^2 + 1/2 sum h_ij dw_i dw_j + ...` at `dw = -w`, without
    what couples weights, and, as the network is trained, without the gradient. With `gradient=True` the score is
    `h w^2 / 2 - g w`, for networks that are not at a minimum; it may be below 0.

    The diagonal is found from products of the Hessian with vectors of 1 and -1, `h = mean of v (H v)`. The vectors are
    rows of a Hadamard matrix, times random signs: two weights do not disturb each other unless their numbers agree
    in the lowest bits, and with as many vectors as weights the diagonal is exact.
    With far fewer than weights it is noisy, and may be below 0: on a net of 23,000 weights 32 vectors ranked worse than
    magnitude. `OBS` and `TaylorSaliency`, of squares of gradients, have no such noise.

    Args:
        samples: Vectors, >= 1, rounded up to a power of two. Each takes two backward passes over all examples.
        gradient: Whether the score has the first-order term.
        seed: Of the random signs, >= 0.

    **Reference**: LeCun, Denker and Solla, "Optimal brain damage" (1990), equations 1 to 4; Bekas, Kokiopoulou and
    Saad, "An estimator for the diagonal of a matrix" (2007), section 3: Hadamard vectors.
    **Deviations**: the full Hessian, estimated, where the paper propagates second derivatives by the Gauss-Newton
    approximation: the diagonal may be below 0.
    """

    needs = frozenset({"inputs", "targets"})

    def __init__(self, samples: int = 32, gradient: bool = False, seed: int = 0) -> None:
        self.samples = check_count("samples", samples)
        self.gradient = bool(gradient)
        self.seed = check_count("seed", seed, 0)

    def scores(self, scored: ScoredModel, examples: Examples) -> Scores:
        gradients = LossGradients(scored, examples.loss)
        values = [each.values().astype(np.float64) for each in scored.weights]
        diagonal = hessian_diagonal(gradients, scored, examples, self.samples, self.seed)
        scores = [h * w**2 / 2 for h, w in zip(diagonal, values, strict=True)]
        if self.gradient:
            first = as_arrays(gradients.mean(examples))
            scores = [s - g * w for s, g, w in zip(scores, first, values, strict=True)]
        return scores

    def get_config(self) -> dict[str, Any]:
        return {"samples": self.samples, "gradient": self.gradient, "seed": self.seed}


def hessian_diagonal(
    gradients: LossGradients, scored: ScoredModel, examples: Examples, samples: int, seed: int = 0
) -> Scores:
    """The diagonal of the Hessian of the mean loss, estimated; see `OBD`."""
    count = 1 << (samples - 1).bit_length()
    sizes = [int(np.prod(each.shape)) for each in scored.weights]
    firsts = np.cumsum(sizes) - sizes
    random = np.random.default_rng(seed)
    signs = [tf.constant(random.choice([-1.0, 1.0], each.shape), tf.float32) for each in scored.weights]
    total: list[Any] = [0.0] * len(sizes)
    for row in range(count):
        vectors = [
            sign * tf.reshape(hadamard_row(row, int(first), size), sign.shape)
            for sign, first, size in zip(signs, firsts, sizes, strict=True)
        ]
        products = weighted_mean((gradients.times(batch, vectors), size_of(batch)) for batch in examples)
        total = [t + v * p for t, v, p in zip(total, vectors, products, strict=True)]
    return [each / count for each in as_arrays(total)]


def hadamard_row(row: int, first: int, size: int) -> Tensor:
    """Entries `first` to `first + size` of a row of Sylvester's Hadamard matrix, `(-1) ** popcount(row & column)`.

    >>> [int(n) for n in hadamard_row(1, 0, 4)], [int(n) for n in hadamard_row(3, 0, 4)]
    ([1, -1, 1, -1], [1, -1, -1, 1])
    """
    shared = tf.bitwise.bitwise_and(tf.range(first, first + size, dtype=tf.int64), tf.constant(row, tf.int64))
    return 1.0 - 2.0 * tf.cast(tf.raw_ops.PopulationCount(x=shared) % 2, tf.float32)
