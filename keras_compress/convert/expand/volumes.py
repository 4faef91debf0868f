"""Poolings, paddings and croppings of volumes, as two such operations on images: no kernel takes five dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.expansion import Expansion
from keras_compress.convert.expand.poolings import mean_over_positions
from keras_compress.convert.expand.products import reshaped
from keras_compress.convert.expand.weights import frozen
from keras_compress.core.transform import IntegerWeight
from keras_compress.quantizers.kinds import Kind, kind_of_call

Tensor = Any
Pair = Any


def by_images(emit: Emitter, volume: Tensor, layer: Callable[[Pair, str], keras.layers.Layer], values: Any) -> Tensor:
    """A separable operation on `(batch, depth, height, width, channels)`: on depth and height, then on width.

    Args:
        emit: Puts calls into the graph.
        volume: Tensor of rank 5.
        layer: Makes the layer on images from its two values, for height and width of the image, and a name.
        values: One value for each of depth, height and width; the first of the two layers gets the value that changes
            nothing as `None`.
    """
    depth, height, width, channels = volume.shape[1:]
    image = reshaped(emit, volume, (depth, height, width * channels), "depth_and_height")
    image = emit(layer((values[0], values[1]), "first"), image)
    depth, height = image.shape[1:3]
    image = reshaped(emit, image, (depth * height, width, channels), "width")
    image = emit(layer((None, values[2]), "second"), image)
    return reshaped(emit, image, (depth, height, *image.shape[2:]), "restored")


def _refuse_channels_first(operation: Any) -> None:
    if getattr(operation, "data_format", "channels_last") == "channels_first":
        raise ValueError(f"Expected data_format='channels_last'. Received: 'channels_first' at {operation.name!r}")


def _has_whole_windows(sizes: Pair, strides: Pair, padding: str, places: Sequence[int]) -> bool:
    """Whether no window of a pooling reaches beyond its input, where an average is one of fewer values."""
    covered = [(math.ceil(n / s) - 1) * s + k for n, s, k in zip(places, strides, sizes, strict=True)]
    return padding == "valid" or all(end <= n for end, n in zip(covered, places, strict=True))


class Pooling3D(Expansion):
    """MaxPooling3D and AveragePooling3D.

    An average is rounded twice, and the second time its values are small beside the range that both poolings keep. With
    measured ranges the two axes are averaged by weights, whose sums have a range of their own, after the third, of
    whose roundings they take the mean.
    """

    handles: ClassVar[tuple[str, ...]] = ("MaxPooling3D", "AveragePooling3D")

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse_channels_first(operation)
        if kind_of_call(operation, args[0].shape) is Kind.MEAN:
            return mean_over_positions(emit, args[0], keepdims=True)
        maximum = isinstance(operation, keras.layers.MaxPooling3D)
        if not maximum and emit.measures and self._has_weights(operation, args[0].shape[1:3]):
            return self._by_weights(emit, operation, args[0])
        kind = keras.layers.MaxPooling2D if maximum else keras.layers.AveragePooling2D
        pairs = list(zip(operation.pool_size, operation.strides, strict=True))

        def layer(values: Pair, name: str) -> keras.layers.Layer:
            sizes, strides = zip(*[(1, 1) if value is None else value for value in values], strict=True)
            return kind(sizes, strides, operation.padding, name=name)

        return by_images(emit, args[0], layer, pairs)

    def _has_weights(self, pooling: Any, places: Sequence[int]) -> bool:
        """Whether depth and height can be averaged by a depthwise convolution."""
        sizes, strides = pooling.pool_size[:2], pooling.strides[:2]
        # Keras has none with two strides.
        plain = strides[0] == strides[1] and math.prod(sizes) > 1
        return plain and _has_whole_windows(sizes, strides, pooling.padding, places)

    def _by_weights(self, emit: Emitter, pooling: Any, volume: Tensor) -> Tensor:
        depth, height, width, channels = volume.shape[1:]
        if pooling.pool_size[2] > 1 or pooling.strides[2] > 1:
            image = reshaped(emit, volume, (depth * height, width, channels), "width")
            sizes, strides = (1, pooling.pool_size[2]), (1, pooling.strides[2])
            image = emit.new(keras.layers.AveragePooling2D(sizes, strides, pooling.padding, name="first"), image)
            width, volume = image.shape[2], image
        image = reshaped(emit, volume, (depth, height, width * channels), "depth_and_height")
        layer = keras.layers.DepthwiseConv2D(
            pooling.pool_size[:2], pooling.strides[:2], pooling.padding, depthwise_initializer="zeros", name="second"
        )
        layer.build(image.shape)
        shape = (*layer.kernel_size, width * channels, 1)
        step = np.full((1, 1, 1, 1), 1 / (127 * math.prod(layer.kernel_size)), np.float32)
        image = emit.new(frozen(layer, IntegerWeight(np.full(shape, 127, np.int32), step, 8)), image, name="second")
        return reshaped(emit, image, (*image.shape[1:3], width, channels), "restored")


class ZeroPadding3D(Expansion):
    """ZeroPadding3D and Cropping3D."""

    handles = ("ZeroPadding3D", "Cropping3D")

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse_channels_first(operation)
        pads = isinstance(operation, keras.layers.ZeroPadding3D)
        kind = keras.layers.ZeroPadding2D if pads else keras.layers.Cropping2D
        ends = operation.padding if pads else operation.cropping
        return by_images(emit, args[0], lambda values, name: kind(tuple(v or (0, 0) for v in values), name=name), ends)


class GlobalPooling3D(Expansion):
    """A mean or maximum over a volume as one over an image."""

    handles = ("GlobalMaxPooling3D", "GlobalAveragePooling3D")

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse_channels_first(operation)
        if isinstance(operation, keras.layers.GlobalAveragePooling3D):
            return mean_over_positions(emit, args[0], operation.keepdims)
        depth, height, width, channels = args[0].shape[1:]
        image = reshaped(emit, args[0], (depth, height * width, channels), "image")
        made = emit.new(keras.layers.GlobalMaxPooling2D(name="pooled"), image)
        return reshaped(emit, made, (1, 1, 1, channels), "kept") if operation.keepdims else made
