"""Optimal Brain Damage: the loss as a parabola in each weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.core.registry import register
from keras_compress.data.examples import Examples
from keras_compress.pruning.criteria.gauss_newton import GaussNewton, hadamard_row
from keras_compress.pruning.criteria.gradients import LossGradients, as_arrays, size_of, weighted_mean
from keras_compress.pruning.criteria.saliency import Saliency, Scores, check_count
from keras_compress.pruning.scored import ScoredModel


@register("weight_criterion")
class OBD(Saliency):
    """`h w^2 / 2`, h the second derivative of the mean loss: what the loss gains at a minimum without the weight.

    It is the expansion `dE = sum g_i dw_i + 1/2 sum h_ii dw_i^2 + 1/2 sum h_ij dw_i dw_j + ...` at `dw = -w`, without
    what couples weights, and, as the network is trained, without the gradient. With `gradient=True` the score is
    `h w^2 / 2 - g w`, for networks that are not at a minimum; it may be below 0.

    h is the diagonal of the Gauss-Newton matrix: second derivatives of the loss in the outputs count, those of the
    network do not, so `h >= 0`. It is estimated from squares, see `GaussNewton`; the relative error is about
    `(2 / (samples * batches)) ** 0.5`, in batches of 64 examples, whatever the number of weights.

    `hessian=True` takes the diagonal of the full Hessian instead, from products with vectors: `h = mean of v (H v)`.
    That is exact with as many vectors as weights and may be below 0 where the loss bends down. With far fewer it is
    noise: on nets of 20,000 weights 32 vectors rank worse than magnitude. For small nets, and to check the expansion.

    Takes `4 * classes^2` bytes for each place of an output of an example, at least of one example at a time.

    Args:
        samples: Vectors, >= 1, rounded up to a power of two. Each takes a backward pass over all examples, with
            `hessian=True` two.
        gradient: Whether the score has the first-order term.
        seed: Of the random signs, >= 0.
        hessian: Whether h is of the full Hessian.

    **Reference**: LeCun, Denker and Solla, "Optimal brain damage" (1990), equations 1 to 4, and the Levenberg-Marquardt
    approximation of its section 2.2; Schraudolph, "Fast curvature matrix-vector products for second-order gradient
    descent" (2002), section 3, for any loss; Bekas, Kokiopoulou and Saad, "An estimator for the diagonal of a matrix"
    (2007), section 3: Hadamard vectors.
    **Deviations**: the paper propagates the diagonal from layer to layer and so neglects what couples units of a layer;
    here it is kept and the diagonal of the whole matrix is estimated. Losses are any, not the squared error only;
    what a loss combines over other axes of an output than the last is neglected.
    """

    needs = frozenset({"inputs", "targets"})

    def __init__(self, samples: int = 32, gradient: bool = False, seed: int = 0, hessian: bool = False) -> None:
        self.samples = check_count("samples", samples)
        self.gradient = bool(gradient)
        self.seed = check_count("seed", seed, 0)
        self.hessian = bool(hessian)

    def scores(self, scored: ScoredModel, examples: Examples) -> Scores:
        values = [each.values().astype(np.float64) for each in scored.weights]
        gradients = LossGradients(scored, examples.loss)
        if self.hessian:
            diagonal = hessian_diagonal(gradients, scored, examples, self.samples, self.seed)
        else:
            diagonal = GaussNewton(scored, examples).diagonal(self.samples, self.seed)
        scores = [h * w**2 / 2 for h, w in zip(diagonal, values, strict=True)]
        if self.gradient:
            first = as_arrays(gradients.mean(examples))
            scores = [s - g * w for s, g, w in zip(scores, first, values, strict=True)]
        return scores

    def get_config(self) -> dict[str, Any]:
        return {"samples": self.samples, "gradient": self.gradient, "seed": self.seed, "hessian": self.hessian}


def hessian_diagonal(
    gradients: LossGradients, scored: ScoredModel, examples: Examples, samples: int, seed: int = 0
) -> Scores:
    """The diagonal of the Hessian of the mean loss, `mean of v (H v)` over vectors v of 1 and -1.

    They are rows of a Hadamard matrix, times random signs: two weights do not disturb each other unless their numbers
    agree in the lowest bits, and with as many vectors as weights the diagonal is exact.
    """
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
