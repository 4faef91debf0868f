"""Movement pruning: what training moves away from zero stays."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_compress.core.kernels import Bound, Kernel
from keras_compress.core.registry import register
from keras_compress.core.schedule import ConstantSparsity, PolynomialDecay
from keras_compress.core.ste import value_of
from keras_compress.pruning.ranked import ScoredPruner

Tensor = Any


def _masked(weight: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    return weight * tf.cast(mask, weight.dtype)


def _masked_gradient(upstream: Tensor, weight: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    return _masked(upstream, scores, mask)


def _scores_gradient(upstream: Tensor, weight: Tensor, scores: Tensor, mask: Tensor) -> tuple[Tensor, None]:
    return upstream * weight, None


_KERNEL = Kernel(
    _masked, _masked_gradient, _scores_gradient, compile_alone=False, exact=True, any_shape=True, small=2**31
)


@register("weight_transform")
class MovementPruner(ScoredPruner):
    """Keeps the weights of highest trained scores, which rise where training moves a weight away from zero.

    **Forward** `y = mask * w`, with the mask of the `round(n * (1 - sparsity))` highest scores `S`.
    **Gradient** `dy/dw = mask`; `dL/dS = w dL/dy`, straight through the mask, for pruned weights too. With SGD of rate
    a `S = -a * (sum over the steps of w dL/dy)`.

    Scores begin at 0; those that are equal are ranked by magnitude. Meant for the fine-tuning of trained models.

    Args:
        schedule: `step -> sparsity`; the paper takes `PolynomialDecay` of power 3 between a warm-up and a cool-down.
            From its end on the mask stays as it is.

    **Reference**: Sanh, Wolf and Rush, "Movement pruning: adaptive sparsity by fine-tuning" (2020), equations 2, 3 and
    section 4 (hard movement pruning).
    **Deviations**: ranked anew where the schedule acts, not in each step: `frequency=1` is the paper's.
    """

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [
            {"schedule": PolynomialDecay(0.25, 0.75, begin_step=0, end_step=4, frequency=2)},
            {"schedule": ConstantSparsity(0.5, begin_step=0, end_step=3, frequency=1)},
        ]

    def kernel(self) -> Bound:
        return _KERNEL, (value_of(self.trained_scores), value_of(self.mask))
