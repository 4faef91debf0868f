"""Contrastive distillation: a sample's features in the student tell it from the teacher's of all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops, tree

from keras_compress.core.registry import register
from keras_compress.distillation.loss import (
    DistillationLoss,
    Shape,
    check_positive,
    float32,
    normalized,
    rows,
    shares_and_masks,
    total,
    weighted_mean,
    zeroed,
)

Tensor = Any


@register("distillation")
class CRD(DistillationLoss):
    """Noise-contrastive loss between embeddings of the student and of the teacher.

    **Loss** `-mean_i (log h_ii + sum_(j != i) log(1 - h_ij))`, `h = e^c / (e^c + N/M)`, `c = g_t . g_s / tau`: g are
    linear embeddings of length 1, trained with the student, N the number of negatives and M that of all samples.

    Args:
        embedding_size: Length of the embeddings, >= 1.
        temperature: tau, > 0.
        samples: M, the samples of the training set; `None`: those of a batch.

    Raises:
        ValueError: For arguments out of range, or features of unknown size.

    **Reference**: Tian, Krishnan and Isola, "Contrastive representation distillation" (2020), equations 17 to 19.
    **Deviations**: the other samples of the batch are the negatives, in place of a memory of all the data; the
    student's embeddings are compared with the teacher's only, not the other way round too.
    """

    reads = "features"
    weighs_samples = True

    def __init__(self, embedding_size: int = 128, temperature: float = 0.07, samples: int | None = None) -> None:
        for name, value in (("embedding_size", embedding_size), ("samples", samples)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"Expected `{name}` >= 1. Received: {name}={value}")
        self.embedding_size, self.dataset_size = embedding_size, samples
        self.temperature = check_positive("temperature", temperature)

    def make_layers(self, teacher: Sequence[Shape], student: Sequence[Shape]) -> list[keras.layers.Layer]:
        for shape in (*teacher, *student):
            if None in shape[1:]:
                raise ValueError(f"Expected features of known size for CRD. Received: {tuple(shape)}")
        return [
            keras.layers.Dense(self.embedding_size, name=f"embedding_{who}_{number}", dtype="float32")
            for number in range(len(teacher))
            for who in ("teacher", "student")
        ]

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **kwargs: Any) -> Tensor:
        teachers, students = float32(tree.flatten(teacher_outputs)), float32(tree.flatten(student_outputs))
        embeddings = kwargs.get("layers") or [lambda values: values] * (2 * len(students))
        counted = shares_and_masks(kwargs, len(students))
        pairs = zip(teachers, students, embeddings[::2], embeddings[1::2], counted, strict=True)
        return total(
            weighted_mean(
                self._of_embeddings(of_teacher(_vectors(ops.stop_gradient(t), mask)), of_student(_vectors(s, mask))),
                share,
            )
            for t, s, of_teacher, of_student, (share, mask) in pairs
        )

    def _of_embeddings(self, teacher: Tensor, student: Tensor) -> Tensor:
        scores = ops.matmul(normalized(student), ops.transpose(normalized(teacher))) / self.temperature
        count = ops.cast(ops.shape(student)[0], "float32")
        negatives = count - 1.0
        offset = ops.log(ops.maximum(negatives, 1.0) / (count if self.dataset_size is None else self.dataset_size))
        # h is the sigmoid of the score over the offset.
        same = ops.eye(ops.shape(student)[0])
        each = same * ops.log_sigmoid(scores - offset) + (1.0 - same) * ops.log_sigmoid(offset - scores)
        return -ops.sum(each, axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {
            "embedding_size": self.embedding_size,
            "temperature": self.temperature,
            "samples": self.dataset_size,
        }


def _vectors(features: Tensor, mask: Tensor | None) -> Tensor:
    return rows(zeroed(features, mask))
