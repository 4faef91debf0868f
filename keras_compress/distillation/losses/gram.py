"""Gram matrices: which channels of a layer are active together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops, tree

from keras_compress.core.registry import register
from keras_compress.distillation.loss import DistillationLoss, Shape, float32, shares_and_masks, total, weighted_mean
from keras_compress.distillation.losses.fsp import check_channels, matrix_distance, products

Tensor = Any


@register("distillation")
class Gram(DistillationLoss):
    """Squared distance of the products of the channels of a hint with each other.

    **Loss** `mean_n sum_hints ||G_t - G_s||^2`, `G_ij = sum_hw F_hwi F_hwj / (h w)`: `FSP` of a layer with itself.
    Maps may differ in size.

    Raises:
        ValueError: For other numbers of channels in teacher and student.

    **Reference**: Gatys, Ecker and Bethge, "Image style transfer using convolutional neural networks" (2016),
    equations 3 and 4. **Deviations**: the mean over the map in place of the factor `1 / (4 N^2 M^2)`.
    """

    reads = "features"
    needs_hints = True
    weighs_samples = True

    def make_layers(self, teacher: Sequence[Shape], student: Sequence[Shape]) -> list[keras.layers.Layer]:
        check_channels(teacher, student, "Gram")
        return []

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **kwargs: Any) -> Tensor:
        teachers, students = float32(tree.flatten(teacher_outputs)), float32(tree.flatten(student_outputs))
        pairs = zip(teachers, students, shares_and_masks(kwargs, len(students)), strict=True)
        return total(
            weighted_mean(matrix_distance(ops.stop_gradient(products(t, t, mask)), products(s, s, mask)), share)
            for t, s, (share, mask) in pairs
        )
