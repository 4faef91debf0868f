"""Convolutions that are two, and those that lack a dimension."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from keras_compress.convert.expand.activations import with_activation
from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.expansion import Expansion
from keras_compress.convert.expand.products import reshaped
from keras_compress.convert.expand.weights import frozen
from keras_compress.core.transform import IntegerWeight


class Separable(Expansion):
    """A depthwise convolution and a 1x1 convolution, with integers between them."""

    handles: ClassVar[tuple[str, ...]] = ("SeparableConv1D", "SeparableConv2D")

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        rank = operation.rank
        depthwise_class = keras.layers.DepthwiseConv1D if rank == 1 else keras.layers.DepthwiseConv2D
        depthwise = depthwise_class(
            operation.kernel_size,
            strides=operation.strides,
            padding=operation.padding,
            depth_multiplier=operation.depth_multiplier,
            dilation_rate=operation.dilation_rate,
            use_bias=False,
        )
        depthwise.build(args[0].shape)
        spread = frozen(depthwise, emit.weight(operation.depthwise_kernel, (-2, -1)))
        tensor = emit.new(spread, args[0], name="depthwise")
        pointwise_class = keras.layers.Conv1D if rank == 1 else keras.layers.Conv2D
        pointwise = pointwise_class(operation.filters, 1, use_bias=operation.use_bias)
        pointwise.build(tensor.shape)
        if operation.use_bias:
            pointwise.bias.assign(operation.bias)
        tensor = emit.new(frozen(pointwise, emit.weight(operation.pointwise_kernel)), tensor, name="pointwise")
        return with_activation(emit, operation.activation, tensor)


class TransposedConvolution1D(Expansion):
    """Conv1DTranspose as a Conv2DTranspose over images of height 1."""

    handles = ("Conv1DTranspose",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        length, channels = args[0].shape[1:]
        image = reshaped(emit, args[0], (1, length, channels), "image")
        layer = keras.layers.Conv2DTranspose(
            operation.filters,
            (1, *operation.kernel_size),
            strides=(1, *operation.strides),
            padding=operation.padding,
            dilation_rate=(1, *operation.dilation_rate),
            use_bias=operation.use_bias,
        )
        layer.build(image.shape)
        if operation.use_bias:
            layer.bias.assign(operation.bias)
        weight = emit.weight(operation.kernel, (-2,))
        wider = IntegerWeight(weight.integers[None], weight.scale.reshape((1, *weight.scale.shape)), weight.bits)
        outputs = emit.new(frozen(layer, wider), image, name="transposed")
        outputs = reshaped(emit, outputs, outputs.shape[2:], "restored")
        return with_activation(emit, operation.activation, outputs)
