"""Flow of the solution procedure: how features of one layer go with those of a later one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops, tree

from keras_compress.core.registry import register
from keras_compress.distillation.loss import (
    DistillationLoss,
    Shape,
    fits,
    float32,
    shares_and_masks,
    total,
    weighted_mean,
    zeroed,
)

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
    weighs_samples = True

    def make_layers(self, teacher: Sequence[Shape], student: Sequence[Shape]) -> list[keras.layers.Layer]:
        if len(teacher) < 2:
            raise ValueError(f"Expected at least two hints for FSP. Received: {len(teacher)}")
        check_channels(teacher, student, "FSP")
        return []

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **kwargs: Any) -> Tensor:
        counted = shares_and_masks(kwargs, len(tree.flatten(student_outputs)))
        masks = [mask for _, mask in counted]
        flows = [_flows(float32(tree.flatten(each)), masks) for each in (teacher_outputs, student_outputs)]
        pairs = zip(*flows, counted[1:], strict=True)
        return total(
            weighted_mean(matrix_distance(ops.stop_gradient(wanted), made), share) for wanted, made, (share, _) in pairs
        )


def _flows(features: list[Tensor], masks: list[Any]) -> list[Tensor]:
    pairs = zip(itertools.pairwise(features), masks[1:], strict=True)
    return [products(*_of_one_size(a, b), mask) for (a, b), mask in pairs]


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


def products(first: Tensor, second: Tensor, mask: Tensor | None = None) -> Tensor:
    """Products of the channels of two maps of one size, the mean over the map: `(batch, channels, channels)`.

    Args:
        first: `(batch, ..., channels)`.
        second: The same.
        mask: Of positions; the mean is over those that count. One of another size is left out.

    >>> products(ops.array([[[1.0], [3.0]]]), ops.array([[[2.0], [4.0]]])).numpy().tolist()
    [[[7.0]]]
    """
    batch = ops.shape(first)[0]
    a, b = (ops.reshape(zeroed(each, mask), (batch, -1, each.shape[-1])) for each in (first, second))
    made = ops.matmul(ops.transpose(a, (0, 2, 1)), b)
    if mask is None or not fits(mask, first):
        return made / ops.cast(ops.shape(a)[1], "float32")
    # Positions of a mask of fewer axes are several of the map, all of which count.
    valid = ops.reshape(zeroed(ops.ones_like(first[..., :1]), mask), (batch, -1))
    return made / ops.maximum(ops.sum(valid, axis=1), 1.0)[:, None, None]


def matrix_distance(wanted: Tensor, made: Tensor) -> Tensor:
    """Squared Frobenius distance of each sample."""
    return ops.sum(ops.square(wanted - made), axis=(1, 2))


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
