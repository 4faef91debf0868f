"""BatchNormalization folded into the integers before it, exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from keras_compress.core.batch_norm import Affine as Affine
from keras_compress.core.batch_norm import affine_of as affine_of
from keras_compress.core.batch_norm import channel_shape
from keras_compress.core.transform import IntegerWeight
from keras_compress.tflite.packing import spare_bits

# Bias integers are kept this small: accumulators are int32.
LARGEST_BIAS = 2**30


def fold(
    weight: IntegerWeight, bias: NDArray[np.float64], norm: Affine, channel_axes: tuple[int, ...]
) -> tuple[IntegerWeight, NDArray[np.float64]]:
    """Weight and bias of the convolution that does both.

    Scales are multiplied by `|factor|`, channels with a negative factor change sign; no integer is rounded again. A
    channel with factor 0 becomes zeros.

    Args:
        weight: Integers in the layer's layout.
        bias: Bias of the layer, `(channels,)`.
        norm: Factors and offsets, `(channels,)`.
        channel_axes: Output-channel axes of the weight.
    """
    shape = channel_shape(weight.integers.shape, channel_axes)
    sign = np.sign(norm.factor).reshape(shape).astype(weight.integers.dtype)
    magnitude = np.abs(norm.factor)
    largest = magnitude.max(initial=0.0) or 1.0
    factor = np.where(magnitude > 0, magnitude, largest).reshape(shape)
    folded = IntegerWeight(
        integers=weight.integers * sign, scale=(weight.scale * factor).astype(np.float32), bits=weight.bits
    )
    return folded, bias * norm.factor + norm.offset


def spread(weight: IntegerWeight) -> IntegerWeight:
    """The same weight with its integers shifted up as far as int8 goes, one shift for the tensor.

    Small integers mean large multipliers, under which the rounding of the bias and TFLM's double rounding show.
    """
    largest = int(np.abs(weight.integers).max(initial=0))
    shift = int(np.floor(np.log2(127 / largest))) if largest else 0
    return IntegerWeight(
        integers=weight.integers * 2**shift, scale=(weight.scale / np.float32(2**shift)), bits=weight.bits
    )


def compact(weight: IntegerWeight) -> IntegerWeight:
    """The same weight with its integers shifted down as far as they stay whole, one shift for the tensor."""
    shift = spare_bits(weight.integers)
    return IntegerWeight(
        integers=weight.integers >> shift, scale=(weight.scale * np.float32(2**shift)), bits=weight.bits
    )


def bias_grid(
    bias: NDArray[np.float64], input_scale: float, weight: IntegerWeight, channel_axes: tuple[int, ...]
) -> tuple[IntegerWeight, IntegerWeight]:
    """The bias in steps of input scale times weight scale, and the weight, coarser where the bias needs it.

    Returns:
        `(weight, bias)`. The bias integers are `round(bias / (input_scale * weight_scale))`.
    """
    weight = _coarse_enough(bias, input_scale, weight, channel_axes)
    scale = np.broadcast_to(weight.scale, channel_shape(weight.integers.shape, channel_axes)).reshape(-1)
    step = (np.float32(input_scale) * scale.astype(np.float32)).astype(np.float32)
    return weight, IntegerWeight(np.rint(bias / step.astype(np.float64)).astype(np.int32), step, 32)


def doubles(weight: IntegerWeight) -> bool:
    """Whether int8 holds twice the integers of a weight."""
    return int(np.abs(weight.integers.astype(np.int32)).max(initial=0)) <= 63


def sign_form(
    weight: IntegerWeight, bias: NDArray[np.float64], input_scale: float, channel_axes: tuple[int, ...]
) -> tuple[IntegerWeight, IntegerWeight]:
    """Weight and bias whose sums have the sign of `weight * x + bias`, exactly, with sign(0) = +1.

    With integers `w` and `x`, `s_in * s_w * sum(w * x) + b >= 0` is `sum(w * x) >= t`, `t = ceil(-b / (s_in * s_w))`.
    So `2 * sum(w * x) - 2 * t + 1`, which is odd and never 0, has the sign; the device clips it to -1 and 1. Weights
    too wide to be doubled give `sum(w * x) - t` instead, on a grid of step 1, and leave the rest to another layer.

    Returns:
        `(weight, bias)`. All channels have one scale: one unit of the sums is 4 (of those not doubled, 1).
    """
    shape = channel_shape(weight.integers.shape, channel_axes)
    scale = np.broadcast_to(weight.scale, shape).reshape(-1).astype(np.float64)
    threshold = np.clip(np.ceil(-bias / (np.float64(np.float32(input_scale)) * scale)), -(2**28), 2**28)
    double = doubles(weight)
    unit = np.float32((4.0 if double else 1.0) / input_scale)
    integers = (1 - 2 * threshold if double else -threshold).astype(np.int32)
    one = np.ones([1] * weight.integers.ndim, np.float32)
    step = np.full(scale.shape, np.float32(input_scale) * unit, np.float32)
    doubled = weight.integers * np.int8(2 if double else 1)
    return IntegerWeight(doubled, one * unit, 8), IntegerWeight(integers, step, 32)


def _coarse_enough(
    bias: NDArray[np.float64], input_scale: float, weight: IntegerWeight, channel_axes: tuple[int, ...]
) -> IntegerWeight:
    """Raise the scale of channels so small beside their bias that the bias would overflow."""
    shape = channel_shape(weight.integers.shape, channel_axes)
    needed = (np.abs(bias) / (input_scale * LARGEST_BIAS)).reshape(shape)
    if np.all(weight.scale >= needed):
        return weight
    scale = np.maximum(weight.scale, needed).astype(np.float32)
    integers = np.rint(weight.integers * (weight.scale.astype(np.float64) / scale)).astype(weight.integers.dtype)
    return IntegerWeight(integers, scale, weight.bits)


def standalone(norm: Affine, bits: int = 8) -> IntegerWeight:
    """The factors of a BatchNormalization that nothing takes in, as the kernel of a 1x1 depthwise convolution."""
    magnitude = np.abs(norm.factor)
    largest = magnitude.max(initial=0.0) or 1.0
    highest = 2 ** (bits - 1) - 1
    scale = (np.where(magnitude > 0, magnitude, largest) / highest).astype(np.float32)
    integers = (np.sign(norm.factor) * highest).astype(np.int8)
    return IntegerWeight(integers.reshape(1, 1, -1, 1), scale.reshape(1, 1, -1, 1), bits)
