"""Poolings and resizing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from keras_compress.ir.builder import integers
from keras_compress.ir.graph import Tensor
from keras_compress.ir.read.reader import Reader
from keras_compress.ir.read.table import reads
from keras_compress.ir.read.weighted import as_image, as_sequence, reshaped


def _known(layer: Any, inputs: Tensor) -> bool:
    return bool(layer.data_format == "channels_last" and inputs.dtype == "float32")


def _pooled(reader: Reader, operator: str, image: Tensor, size: Any, strides: Any, padding: str) -> Tensor:
    return reader.add(
        operator,
        image,
        padding=padding.upper(),
        stride_h=int(strides[0]),
        stride_w=int(strides[1]),
        filter_height=int(size[0]),
        filter_width=int(size[1]),
    )


@reads("MaxPooling2D", "AveragePooling2D")
def pooling_2d(reader: Reader, layer: Any, inputs: Tensor) -> Any:
    """MAX_POOL_2D and AVERAGE_POOL_2D."""
    if not _known(layer, inputs):
        return NotImplemented
    return _pooled(reader, _operator(layer), inputs, layer.pool_size, layer.strides, layer.padding)


def _operator(layer: Any) -> str:
    return "MAX_POOL_2D" if "Max" in type(layer).__name__ else "AVERAGE_POOL_2D"


@reads("MaxPooling1D", "AveragePooling1D")
def pooling_1d(reader: Reader, layer: Any, inputs: Tensor) -> Any:
    """The same on images of height 1."""
    if not _known(layer, inputs):
        return NotImplemented
    image = as_image(reader, inputs)
    size, strides = (1, *layer.pool_size), (1, *layer.strides)
    made = _pooled(reader, _operator(layer), image, size, strides, layer.padding)
    return as_sequence(reader, made)


@reads("GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalAveragePooling1D", "GlobalAveragePooling2D")
def global_pooling(reader: Reader, layer: Any, inputs: Tensor) -> Any:
    """REDUCE_MAX and MEAN over all positions."""
    if not _known(layer, inputs):
        return NotImplemented
    operator = "REDUCE_MAX" if "Max" in type(layer).__name__ else "MEAN"
    return reduced(reader, operator, inputs, range(1, len(inputs.shape) - 1), bool(layer.keepdims))


def reduced(reader: Reader, operator: str, tensor: Tensor, axes: Iterable[int], keep_dims: bool) -> Tensor:
    """MEAN, REDUCE_MAX and the like; of one value each, a reshape."""
    axes = list(axes)
    if all(tensor.shape[axis] == 1 for axis in axes):
        kept = [n for axis, n in enumerate(tensor.shape) if keep_dims or axis not in axes]
        return reshaped(reader, tensor, tuple(kept))
    return reader.add(operator, tensor, integers(*axes), keep_dims=keep_dims)


@reads("UpSampling2D")
def up_sampling(reader: Reader, layer: keras.layers.UpSampling2D, inputs: Tensor) -> Any:
    """A resize."""
    if not _known(layer, inputs):
        return NotImplemented
    height, width = (int(n * factor) for n, factor in zip(inputs.shape[1:3], layer.size, strict=True))
    return resized(reader, inputs, height, width, layer.interpolation)


@reads("Resizing")
def resizing(reader: Reader, layer: keras.layers.Resizing, inputs: Tensor) -> Any:
    """A resize of images, without cropping or padding."""
    cuts = layer.crop_to_aspect_ratio or layer.pad_to_aspect_ratio or getattr(layer, "antialias", False)
    if not _known(layer, inputs) or cuts or len(inputs.shape) != 4:
        return NotImplemented
    return resized(reader, inputs, layer.height, layer.width, layer.interpolation)


def resized(reader: Reader, image: Tensor, height: int, width: int, interpolation: str) -> Any:
    """RESIZE_NEAREST_NEIGHBOR or RESIZE_BILINEAR, with pixels' centers in their middle as Keras has it."""
    operators = {"nearest": "RESIZE_NEAREST_NEIGHBOR", "bilinear": "RESIZE_BILINEAR"}
    if interpolation not in operators:
        return NotImplemented
    return reader.add(operators[interpolation], image, integers(height, width), half_pixel_centers=True)
