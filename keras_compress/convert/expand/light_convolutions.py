"""Lightweight convolutions as depthwise ones."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.expansion import Expansion
from keras_compress.convert.expand.weights import default_integers, frozen


class LightweightConvolution(Expansion):
    """The kernels that softmax gave, one for each channel, in 8 bits."""

    handles: ClassVar[tuple[str, ...]] = ("LightweightConv1D",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        ends = (operation.before, operation.kernel_size - 1 - operation.before)
        padded = emit.new(keras.layers.ZeroPadding1D(ends, name="padded"), args[0]) if any(ends) else args[0]
        layer = keras.layers.DepthwiseConv1D(
            operation.kernel_size, use_bias=False, depthwise_initializer="zeros", name="depthwise"
        )
        layer.build(padded.shape)
        kernel = operation.shared_values(int(args[0].shape[-1]))
        return emit.new(frozen(layer, default_integers(kernel, (-2, -1))), padded, name="depthwise")
