"""Shapes that kernels want: vectors as images, and pooling over all positions over a window of that size."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


def as_image(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape with height and width, so that a convolution takes it."""
    return (1, 1, shape[-1]) if len(shape) == 1 else (1, int(np.prod(shape[:-1])), shape[-1])


def as_local_pooling(layer: keras.layers.Layer, tensor: Any) -> tuple[keras.layers.Layer, tuple[int, ...] | None]:
    """A pooling layer with int8 rounding that all kernels share, and the shape to bring its output to, if any."""
    if type(layer).__name__ != "GlobalAveragePooling2D":
        return layer, None
    check_sizes(layer, tensor)
    pooled = keras.layers.AveragePooling2D(tuple(tensor.shape[1:3]), name=layer.name)
    return pooled, None if layer.keepdims else (tensor.shape[-1],)


def check_sizes(layer: keras.layers.Layer, tensor: Any) -> None:
    """Refuse an average over sizes that are not known, by name."""
    if None in tensor.shape[1:]:
        raise ValueError(
            "Expected static shapes except for the batch, as an average takes its factor from them. Received: "
            f"{tuple(tensor.shape)} at {layer.name!r}"
        )
