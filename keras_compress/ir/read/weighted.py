"""Layers with weights."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.ir.builder import integers
from keras_compress.ir.graph import Tensor
from keras_compress.ir.read.functions import APPLIED, applied
from keras_compress.ir.read.reader import Reader
from keras_compress.ir.read.table import reads
from keras_compress.quantizers.kinds import activation_name


def activated(reader: Reader, layer: Any, tensor: Tensor) -> Any:
    """A layer's own activation behind its sums; a pass puts a ReLU into the operator."""
    name = activation_name(layer)
    return tensor if name is None else applied(reader, name, tensor)


def _known(layer: Any) -> bool:
    """Whether the layer can be written as an operator, and what applies its activation."""
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    return last and activation_name(layer) in (None, *APPLIED) and getattr(layer, "kernel", None) is not None


def _bias(layer: Any, channels: int) -> NDArray[np.float32]:
    """The bias, or zeros, which convolutions have where there is none: some kernels ask for it."""
    if getattr(layer, "bias", None) is None:
        return np.zeros(channels, np.float32)
    return np.asarray(layer.bias, np.float32).reshape(-1)


def _bias_if_any(layer: Any, channels: int) -> NDArray[np.float32] | None:
    """The bias where it adds something."""
    bias = _bias(layer, channels)
    return bias if bias.any() else None


@reads("Dense")
def dense(reader: Reader, layer: keras.layers.Dense, inputs: Tensor) -> Any:
    """FULLY_CONNECTED on the last axis, whatever stands before it."""
    if not _known(layer) or inputs.dtype != "float32" or len(inputs.shape) < 2:
        return NotImplemented
    bias = _bias_if_any(layer, layer.units)
    made = reader.add("FULLY_CONNECTED", inputs, reader.kernel(layer), bias, keep_num_dims=len(inputs.shape) > 2)
    return activated(reader, layer, made)


@reads("Conv2D")
def conv2d(reader: Reader, layer: keras.layers.Conv2D, inputs: Tensor) -> Any:
    """CONV_2D."""
    if not _known(layer) or inputs.dtype != "float32":
        return NotImplemented
    return activated(reader, layer, _convolution(reader, layer, inputs, layer.padding, layer.strides,
                                                 layer.dilation_rate))  # fmt: skip


def _convolution(reader: Reader, layer: Any, image: Tensor, padding: str, strides: Any, dilation: Any) -> Tensor:
    return reader.add(
        "CONV_2D",
        image,
        reader.kernel(layer),
        _bias(layer, layer.filters),
        padding=padding.upper(),
        **_pair("stride_{}", strides),
        **_pair("dilation_{}_factor", dilation),
    )


def _pair(name: str, values: Any) -> dict[str, int]:
    return {name.format(axis): int(value) for axis, value in zip("hw", values, strict=True)}


@reads("Conv1D")
def conv1d(reader: Reader, layer: keras.layers.Conv1D, inputs: Tensor) -> Any:
    """CONV_2D on images of height 1; a causal one pads before the first step."""
    if not _known(layer) or inputs.dtype != "float32":
        return NotImplemented
    padding, (dilation,) = layer.padding, layer.dilation_rate
    if padding == "causal":
        before = dilation * (layer.kernel_size[0] - 1)
        inputs, padding = reader.add("PAD", inputs, integers(0, 0, before, 0, 0, 0).reshape(3, 2)), "valid"
    image = as_image(reader, inputs)
    made = _convolution(reader, layer, image, padding, (1, *layer.strides), (1, dilation))
    return activated(reader, layer, as_sequence(reader, made))


def as_image(reader: Reader, sequence: Tensor) -> Tensor:
    """A sequence as images of height 1."""
    return reshaped(reader, sequence, (sequence.shape[0], 1, *sequence.shape[1:]))


def as_sequence(reader: Reader, image: Tensor) -> Tensor:
    """Images of height 1 as sequences."""
    return reshaped(reader, image, (image.shape[0], *image.shape[2:]))


def reshaped(reader: Reader, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor in another shape, the batch's too; itself where it has that shape."""
    if tuple(shape) == tensor.shape:
        return tensor
    return reader.add("RESHAPE", tensor, integers(*shape), new_shape=tuple(shape))


@reads("DepthwiseConv2D")
def depthwise_conv2d(reader: Reader, layer: keras.layers.DepthwiseConv2D, inputs: Tensor) -> Any:
    """DEPTHWISE_CONV_2D."""
    if not _known(layer) or inputs.dtype != "float32":
        return NotImplemented
    return activated(reader, layer, _depthwise(reader, layer, inputs, layer.strides, layer.dilation_rate))


@reads("DepthwiseConv1D")
def depthwise_conv1d(reader: Reader, layer: keras.layers.DepthwiseConv1D, inputs: Tensor) -> Any:
    """DEPTHWISE_CONV_2D on images of height 1, whose strides kernels want equal."""
    if not _known(layer) or inputs.dtype != "float32" or layer.padding == "causal":
        return NotImplemented
    image = as_image(reader, inputs)
    made = _depthwise(reader, layer, image, layer.strides * 2, (1, *layer.dilation_rate))
    return activated(reader, layer, as_sequence(reader, made))


def _depthwise(reader: Reader, layer: Any, image: Tensor, strides: Any, dilation: Any) -> Tensor:
    return reader.add(
        "DEPTHWISE_CONV_2D",
        image,
        reader.kernel(layer),
        _bias(layer, image.shape[-1] * layer.depth_multiplier),
        padding=layer.padding.upper(),
        depth_multiplier=int(layer.depth_multiplier),
        **_pair("stride_{}", strides),
        **_pair("dilation_{}_factor", dilation),
    )


@reads("Conv2DTranspose")
def conv2d_transpose(reader: Reader, layer: keras.layers.Conv2DTranspose, inputs: Tensor) -> Any:
    """TRANSPOSE_CONV, which has no dilation."""
    if not _known(layer) or inputs.dtype != "float32" or tuple(layer.dilation_rate) != (1, 1):
        return NotImplemented
    shape = (inputs.shape[0], *layer.compute_output_shape(inputs.shape)[1:])
    bias = _bias_if_any(layer, layer.filters)
    made = reader.add(
        "TRANSPOSE_CONV",
        integers(*shape),
        reader.kernel(layer),
        inputs,
        *([] if bias is None else [bias]),
        padding=layer.padding.upper(),
        **_pair("stride_{}", layer.strides),
    )
    return activated(reader, layer, made)
