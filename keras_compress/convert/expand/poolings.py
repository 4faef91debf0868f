"""Means over all positions, in one form: the global average pooling of an image, MEAN on the device."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import numpy as np

from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.expansion import Expansion
from keras_compress.convert.expand.products import reshaped
from keras_compress.quantizers.kinds import Kind, kind_of_call

Tensor = Any


class GlobalAveragePooling1D(Expansion):
    """A mean over time as that of an image."""

    handles: ClassVar[tuple[str, ...]] = ("GlobalAveragePooling1D",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("mask") is not None:
            raise ValueError(f"Expected no mask in int8. Received: one at {emit.name('')!r}")
        return mean_over_positions(emit, args[0], operation.keepdims)


class OneWindow(Expansion):
    """An average pooling with one window, which is a mean over all positions."""

    handles = ("AveragePooling1D", "AveragePooling2D")

    def applies(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return kind_of_call(operation, args[0].shape) is Kind.MEAN

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        return mean_over_positions(emit, args[0], keepdims=True)


def mean_over_positions(emit: Emitter, tensor: Tensor, keepdims: bool) -> Tensor:
    """The mean of each channel, of an image or of what is made one."""
    *places, channels = tensor.shape[1:]
    if len(places) != 2:
        tensor = reshaped(emit, tensor, (int(np.prod(places)), 1, channels), "image")
    keeps = keepdims and len(places) == 2
    made = emit(keras.layers.GlobalAveragePooling2D(keepdims=keeps, name="average"), tensor)
    return reshaped(emit, made, (*[1] * len(places), channels), "kept") if keepdims and not keeps else made
