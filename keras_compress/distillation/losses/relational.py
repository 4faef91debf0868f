"""Relational distillation: distances and angles between the samples of a batch."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_compress.core.registry import register
from keras_compress.distillation.loss import FeatureLoss, huber, normalized, rows

Tensor = Any
# Below this a squared distance is that of a sample to itself: its root has no gradient.
_SMALLEST = 1e-12


@register("distillation")
class RKDDistance(FeatureLoss):
    """Huber's loss between the distances of the samples, each over their mean.

    **Loss** `mean_(i, j) l(d_t(i, j) / mu_t - d_s(i, j) / mu_s)` over pairs of different samples, mu the mean of d,
    `l(x) = x^2 / 2` up to 1 and `|x| - 1/2` beyond. Spaces may have different sizes.

    **Reference**: Park et al., "Relational knowledge distillation" (2019), equations 5 to 8.
    **Deviations**: the mean over the pairs in place of their sum.
    """

    def of_pair(self, teacher: Tensor, student: Tensor) -> Tensor:
        count = ops.cast(ops.shape(teacher)[0], "float32")
        pairs = ops.maximum(count * (count - 1.0), 1.0)
        wanted, made = (_distances(rows(each), pairs) for each in (teacher, student))
        return ops.sum(huber(wanted - made)) / pairs


def _distances(vectors: Tensor, pairs: Tensor) -> Tensor:
    """Distances over their mean, `(batch, batch)`, 0 on the diagonal."""
    squares = ops.sum(ops.square(vectors[:, None] - vectors[None]), axis=-1)
    apart = squares > _SMALLEST
    distances = ops.where(apart, ops.sqrt(ops.where(apart, squares, 1.0)), 0.0)
    return distances / ops.maximum(ops.sum(distances) / pairs, _SMALLEST)


@register("distillation")
class RKDAngle(FeatureLoss):
    """Huber's loss between the cosines of the angles that three samples form.

    **Loss** `mean_(i, j, k) l(cos_t(i, j, k) - cos_s(i, j, k))` over triplets of different samples, the angle being
    that at j. It takes memory for the cube of the batch size.

    **Reference**: Park et al., "Relational knowledge distillation" (2019), equations 9 and 10.
    **Deviations**: the mean over the triplets in place of their sum.
    """

    def of_pair(self, teacher: Tensor, student: Tensor) -> Tensor:
        count = ops.cast(ops.shape(teacher)[0], "float32")
        triplets = ops.maximum(count * (count - 1.0) * (count - 2.0), 1.0)
        wanted, made = (_cosines(rows(each)) for each in (teacher, student))
        # Where i is k the cosine is 1 for both, where one of them is j it is 0: neither adds anything.
        return ops.sum(huber(wanted - made)) / triplets


def _cosines(vectors: Tensor) -> Tensor:
    """Cosine at j between i and k, `(j, i, k)`."""
    directions = normalized(vectors[None] - vectors[:, None])
    return ops.matmul(directions, ops.transpose(directions, (0, 2, 1)))
