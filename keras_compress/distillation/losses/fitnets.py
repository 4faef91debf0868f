"""FitNets: a layer of the student learns to predict one of the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops, tree

from keras_compress.core.registry import register
from keras_compress.distillation.loss import (
    DistillationLoss,
    Shape,
    channels_of,
    check_same_shape,
    float32,
    shares_and_masks,
    total,
    weighted_mean,
)

Tensor = Any


@register("distillation")
class FitNets(DistillationLoss):
    """Half the mean squared error between the teacher's hint and a regressor's guess from the student's layer.

    **Loss** `1/2 mean (u - r(v))^2`: u the hint, v the guided layer, r a linear convolution (of vectors, a Dense layer)
    that is trained with the student and left behind afterwards. Its kernel is as large as the difference of the maps:
    a student's map of 10x10 meets a hint of 8x8 through 3x3; smaller maps, through a transposed convolution.

    Args:
        regressor: Whether there is one. Without it, shapes must be equal.

    Raises:
        ValueError: For features of other ranks, or of other shapes without a regressor.

    **Reference**: Romero et al., "FitNets: hints for thin deep nets" (2015), equation 3 and section 2.2.
    **Deviations**: the mean over the hint's values in place of their sum: a constant factor, so that a weight does not
    depend on the size of the map. The regressor is linear.

    >>> float(FitNets(regressor=False).compute_loss(ops.array([[[1.0, 3.0]]]), ops.array([[[0.0, 1.0]]])))
    1.25
    """

    reads = "features"
    needs_hints = True
    weighs_samples = True

    def __init__(self, regressor: bool = True) -> None:
        self.regressor = bool(regressor)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"regressor": False}]

    def make_layers(self, teacher: Sequence[Shape], student: Sequence[Shape]) -> list[keras.layers.Layer]:
        if self.regressor:
            return [regressor(t, s, f"regressor_{n}") for n, (t, s) in enumerate(zip(teacher, student, strict=True))]
        for t, s in zip(teacher, student, strict=True):
            check_same_shape(t, s, "FitNets(regressor=False)")
        return []

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **kwargs: Any) -> Tensor:
        hints, guided = float32(tree.flatten(teacher_outputs)), float32(tree.flatten(student_outputs))
        layers = kwargs.get("layers") or [lambda values: values] * len(guided)
        guesses = [layer(values) for layer, values in zip(layers, guided, strict=True)]
        pairs = zip(hints, guesses, shares_and_masks(kwargs, len(guided)), strict=True)
        return total(
            weighted_mean(0.5 * ops.mean(ops.square(ops.stop_gradient(hint) - guess), axis=-1), share, mask)
            for hint, guess, (share, mask) in pairs
        )

    def get_config(self) -> dict[str, Any]:
        return {"regressor": self.regressor}


def regressor(hint: Shape, guided: Shape, name: str) -> keras.layers.Layer:
    """A linear layer from features of one shape to another.

    Args:
        hint: Shape to come to, `(batch, ..., channels)`.
        guided: Shape to begin with, of the same rank.
        name: Of the layer.

    Raises:
        ValueError: For other ranks, or sizes that are not known where they differ.

    >>> regressor((None, 8, 8, 6), (None, 10, 10, 4), "r").kernel_size
    (3, 3)
    """
    units = channels_of(hint, "FitNets")
    if len(hint) != len(guided):
        raise ValueError(
            f"Expected features of as many axes for FitNets. Received: {tuple(hint)} of the teacher, {tuple(guided)} "
            "of the student"
        )
    if len(hint) == 2 or hint[1:-1] == guided[1:-1]:
        return keras.layers.Dense(units, name=name, dtype="float32")
    rank = len(hint) - 2
    pairs = zip(hint[1:-1], guided[1:-1], strict=True)
    sizes = [(h, g) for h, g in pairs if h is not None and g is not None]
    if len(sizes) < rank or rank > 3:
        raise ValueError(f"Expected maps of known size for FitNets. Received: {tuple(hint)} and {tuple(guided)}")
    smaller = all(h <= g for h, g in sizes)
    if not smaller and not all(h >= g for h, g in sizes):
        raise ValueError(
            "Expected a hint that is larger on all axes of the map, or smaller on all. "
            f"Received: {tuple(hint)} of the teacher, {tuple(guided)} of the student"
        )
    kernel = tuple(abs(h - g) + 1 for h, g in sizes)
    kind = f"Conv{rank}D" + ("" if smaller else "Transpose")
    return getattr(keras.layers, kind)(units, kernel, name=name, dtype="float32")
