"""BatchNormalization: its axis, and which layers take its factors in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core.slots import slots_of
from keras_compress.core.wrapper import Compressed

# Layers whose output channels are the last axis, each of them a weighted sum of its own.
_TAKES_FACTORS = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    # By their pointwise kernel.
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
# Layers whose outputs are those of a layer that they hold, by the attribute.
_HELD = {
    "GroupedQueryAttention": "_output_dense",
    "MultiHeadAttention": "_output_dense",
    "SpectralNormalization": "layer",
    "TimeDistributed": "layer",
}


def axis_of(norm: keras.layers.BatchNormalization) -> int:
    """The axis that a built BatchNormalization has factors for, counted from the batch, which is 0."""
    return int(norm.axis) % int(norm.input_spec.ndim)


def over_last_axis(norm: keras.layers.BatchNormalization) -> bool:
    """Whether the factors are for the last axis, where channels are."""
    return axis_of(norm) == int(norm.input_spec.ndim) - 1


def foldable(layer: Any, norm: Any) -> bool:
    """Whether `norm` is a BatchNormalization whose factors can go into the kernel of `layer`."""
    if not isinstance(norm, keras.layers.BatchNormalization) or not isinstance(layer, keras.layers.Layer):
        return False
    body = _last_part(layer)
    linear = getattr(body, "activation", None) in (None, keras.activations.linear)
    return bool(linear) and over_last_axis(norm) and takes_factors(body)


def _last_part(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer inside that makes the outputs: of a layer that is taken apart for the device, the last of its parts."""
    body = layer.layer if isinstance(layer, Compressed) else layer
    held = _HELD.get(type(body).__name__) if type(body).__module__.startswith("keras.") else None
    part = body if held is None else getattr(body, held)
    # Other layers than Dense are called step by step, and the steps put together, before a norm sees them.
    stepwise = isinstance(body, keras.layers.TimeDistributed) and not isinstance(part, keras.layers.Dense)
    return body if part is body or stepwise else _last_part(part)


def takes_factors(layer: keras.layers.Layer) -> bool:
    """Whether a factor for each channel of the last axis is a factor for each channel of the kernel."""
    if not isinstance(layer, _TAKES_FACTORS) or not _calls_as_keras(layer):
        return False
    if not isinstance(layer, keras.layers.EinsumDense):
        return True
    # Of more output axes than one, the last alone is normalized.
    weight, output = layer.equation.replace(" ", "").split(",")[1].split("->")
    (slot,) = slots_of(layer)
    return len(slot.channel_axes) == 1 and weight[slot.channel_axes[0]] == output[-1]


def _calls_as_keras(layer: keras.layers.Layer) -> bool:
    """Whether no subclass of the user's computes in another way."""
    owner = next(cls for cls in type(layer).__mro__ if "call" in vars(cls))
    return owner.__module__.startswith("keras.")


def channel_shape(shape: Sequence[int], channel_axes: Sequence[int]) -> list[int]:
    """Shape in which a vector over the output channels broadcasts against a weight.

    >>> channel_shape((3, 3, 8, 2), (-2, -1))
    [1, 1, 8, 2]
    """
    axes = {a % len(shape) for a in channel_axes}
    return [n if a in axes else 1 for a, n in enumerate(shape)]


@dataclass(frozen=True)
class Affine:
    """`y = factor * x + offset` for each channel, float64."""

    factor: NDArray[np.float64]
    offset: NDArray[np.float64]


def affine_of(norm: keras.layers.BatchNormalization) -> Affine:
    """What a BatchNormalization computes in inference.

    `factor = gamma / sqrt(variance + epsilon)`, `offset = beta - mean * factor`.
    """
    mean = np.asarray(norm.moving_mean, np.float64)
    variance = np.asarray(norm.moving_variance, np.float64)
    factor = 1.0 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        factor = factor * np.asarray(norm.gamma, np.float64)
    offset = -mean * factor
    if norm.center:
        offset = offset + np.asarray(norm.beta, np.float64)
    return Affine(factor, offset)
