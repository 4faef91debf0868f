"""Patches of images, without the convolution that Keras takes them with."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.expansion import Expansion
from keras_compress.convert.expand.products import permuted, reshaped


class ExtractPatches(Expansion):
    """`ops.image.extract_patches` of patches that lie side by side: values move, none is computed."""

    handles: ClassVar[tuple[str, ...]] = ("ExtractPatches",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        size, strides, dilation = (_pair(v) for v in (operation.size, operation.strides, operation.dilation_rate))
        if len(size) != 2 or len(args[0].shape) != 4:
            raise ValueError(f"Expected patches of images. Received: size={size} at {emit.name('')!r}")
        height, width, channels = args[0].shape[1:]
        rows, columns = height // size[0], width // size[1]
        left = height - rows * size[0], width - columns * size[1]
        apart = strides != size or dilation != (1, 1)
        if apart or (any(left) and operation.padding != "valid") or operation.data_format == "channels_first":
            raise ValueError(
                "Expected patches that lie side by side in channels_last images. Received: "
                f"size={operation.size}, strides={operation.strides}, dilation_rate={operation.dilation_rate}, "
                f"padding={operation.padding!r} of images {args[0].shape} at {emit.name('')!r}"
            )
        image = args[0]
        if any(left):
            image = emit.new(keras.layers.Cropping2D(((0, left[0]), (0, left[1])), name="whole"), image)
        image = reshaped(emit, image, (rows, size[0], columns, size[1] * channels), "rows")
        image = permuted(emit, image, (0, 1, 3, 2, 4), "patches_first")
        return reshaped(emit, image, (rows, columns, size[0] * size[1] * channels), "patches")


def _pair(value: Any) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(int(n) for n in value)
