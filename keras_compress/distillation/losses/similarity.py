"""Similarity-preserving distillation: which samples of a batch look alike."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_compress.core.registry import register
from keras_compress.distillation.loss import FeatureLoss, normalized, rows

Tensor = Any


@register("distillation")
class SimilarityPreserving(FeatureLoss):
    """Squared distance of the matrices of products between samples, their rows normalized.

    **Loss** `1/b^2 sum_hints ||G_t - G_s||^2`, G the rows of `Q Q^T` with a length of 1, Q the features of the b
    samples as a matrix. Features may differ in shape.

    **Reference**: Tung and Mori, "Similarity-preserving knowledge distillation" (2019), equations 1 to 4.
    """

    def of_pair(self, teacher: Tensor, student: Tensor) -> Tensor:
        wanted, made = (normalized(ops.matmul(q, ops.transpose(q))) for q in map(rows, (teacher, student)))
        return ops.mean(ops.square(wanted - made))
