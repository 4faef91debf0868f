"""Convolutions that are two, and those that lack a dimension."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.expansion import Expansion
from keras_compress.convert.expand.products import reshaped, with_activation
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
        tensor = emit(spread, args[0], name="depthwise")
        pointwise_class = keras.layers.Conv1D if rank == 1 else keras.layers.Conv2D
        pointwise = pointwise_class(operation.filters, 1, use_bias=operation.use_bias)
        pointwise.build(tensor.shape)
        if operation.use_bias:
            pointwise.bias.assign(operation.bias)
        tensor = emit(frozen(pointwise, emit.weight(operation.pointwise_kernel)), tensor, name="pointwise")
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
        outputs = emit(frozen(layer, wider), image, name="transposed")
        outputs = reshaped(emit, outputs, outputs.shape[2:], "restored")
        return with_activation(emit, operation.activation, outputs)


class OneFilter1D(Expansion):
    """Conv1D with one filter as a Conv2D over images of height 1.

    TensorFlow's converter would add its bias behind the reshape, as for one channel that is the same; no integer kernel
    has it there.
    """

    handles = ("Conv1D",)

    def applies(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return bool(operation.filters == 1 and operation.use_bias)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        tensor, padding = args[0], operation.padding
        if padding == "causal":
            before = operation.dilation_rate[0] * (operation.kernel_size[0] - 1)
            tensor, padding = emit(keras.layers.ZeroPadding1D((before, 0)), tensor, name="padded"), "valid"
        length, channels = tensor.shape[1:]
        image = reshaped(emit, tensor, (1, -1 if length is None else length, channels), "image")
        layer = keras.layers.Conv2D(
            1,
            (1, *operation.kernel_size),
            strides=(1, *operation.strides),
            padding=padding,
            dilation_rate=(1, *operation.dilation_rate),
        )
        layer.build(image.shape)
        layer.bias.assign(operation.bias)
        weight = emit.weight(operation.kernel)
        wider = IntegerWeight(weight.integers[None], weight.scale.reshape((1, *weight.scale.shape)), weight.bits)
        outputs = emit(frozen(layer, wider), image, name="convolved")
        outputs = reshaped(emit, outputs, (-1 if outputs.shape[2] is None else outputs.shape[2], 1), "restored")
        return with_activation(emit, operation.activation, outputs)
