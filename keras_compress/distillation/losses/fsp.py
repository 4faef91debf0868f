"""Flow of the solution procedure: how features of one layer go with those of a later one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops, tree

from keras_compress.core.registry import register
from keras_compress.distillation.loss import DistillationLoss, Shape, float32, total

Tensor = Any


@register("distillation")
class FSP(DistillationLoss):
    """Squared distance of the matrices of products between the channels of neighbouring hints.

    **Loss** `mean_n sum ||G_t - G_s||^2`, `G_ij = sum_hw F1_hwi F2_hwj / (h w)`, F1 and F2 being one hint and the
    next. Where the later map is smaller, the earlier one is max-pooled to it.

    Raises:
        ValueError: For fewer than two hints; for other numbers of channels in teacher and student.

    **Reference**: Yim et al., "A gift from knowledge distillation" (2017), equations 1 and 2, with all lambdas 1.
    """

    reads = "features"
    needs_hints = True

    def make_layers(self, teacher: Sequence[Shape], student: Sequence[Shape]) -> list[keras.layers.Layer]:
        if len(teacher) < 2:
            raise ValueError(f"Expected at least two hints for FSP. Received: {len(teacher)}")
        check_channels(teacher, student, "FSP")
        return []

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **kwargs: Any) -> Tensor:
        flows = [_flows(float32(tree.flatten(each))) for each in (teacher_outputs, student_outputs)]
        pairs = zip(*flows, strict=True)
        return total(matrix_distance(ops.stop_gradient(wanted), made) for wanted, made in pairs)


def _flows(features: list[Tensor]) -> list[Tensor]:
    return [products(*_of_one_size(a, b)) for a, b in itertools.pairwise(features)]


def _of_one_size(earlier: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
    if len(earlier.shape) != 4 or earlier.shape[1:3] == later.shape[1:3]:
        return earlier, later
    factors = [a // b for a, b in zip(earlier.shape[1:3], later.shape[1:3], strict=True)]
    if any(a % b for a, b in zip(earlier.shape[1:3], later.shape[1:3], strict=True)):
        raise ValueError(
            "Expected maps whose sizes are multiples of those of the next hint for FSP. "
            f"Received: {tuple(earlier.shape)} before {tuple(later.shape)}"
        )
    return ops.max_pool(earlier, tuple(factors), tuple(factors)), later


def products(first: Tensor, second: Tensor) -> Tensor:
    """Products of the channels of two maps of one size, the mean over the map: `(batch, channels, channels)`.

    >>> products(ops.array([[[1.0], [3.0]]]), ops.array([[[2.0], [4.0]]])).numpy().tolist()
    [[[7.0]]]
    """
    batch = ops.shape(first)[0]
    a, b = (ops.reshape(each, (batch, -1, each.shape[-1])) for each in (first, second))
    return ops.matmul(ops.transpose(a, (0, 2, 1)), b) / ops.cast(ops.shape(a)[1], "float32")


def matrix_distance(wanted: Tensor, made: Tensor) -> Tensor:
    """Squared Frobenius distance, the mean over the samples."""
    return ops.mean(ops.sum(ops.square(wanted - made), axis=(1, 2)))


def check_channels(teacher: Sequence[Shape], student: Sequence[Shape], who: str) -> None:
    """Refuse hints of different numbers of channels, or without a map.

    Raises:
        ValueError: Naming the shapes.
    """
    for t, s in zip(teacher, student, strict=True):
        if len(t) < 3 or len(t) != len(s) or t[-1] != s[-1]:
            raise ValueError(
                f"Expected maps of as many channels in teacher and student for {who}. Received: {tuple(t)} of the "
                f"teacher, {tuple(s)} of the student"
            )
