"""Means over all positions, which are MEAN on the device, and poolings to a given size."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import numpy as np

from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.expansion import Expansion
from keras_compress.convert.expand.products import reshaped
from keras_compress.quantizers.kinds import Kind, kind_of_call

Tensor = Any
_NAMES = {f"Adaptive{kind}Pooling{rank}D": f"{kind}Pooling{rank}D" for kind in ("Average", "Max") for rank in (1, 2, 3)}


class AdaptivePooling(Expansion):
    """An adaptive pooling with windows of one size as the pooling with that size."""

    handles: ClassVar[tuple[str, ...]] = tuple(_NAMES)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        space, wanted = args[0].shape[1:-1], operation.output_size
        sizes = [wanted] * len(space) if isinstance(wanted, int) else list(wanted)
        if operation.data_format == "channels_first" or any(n % m for n, m in zip(space, sizes, strict=True)):
            raise ValueError(
                f"Expected sizes that the output's divide: others have windows of several sizes. Received: {space} to "
                f"{tuple(sizes)} at {emit.name('')!r}"
            )
        windows = tuple(n // m for n, m in zip(space, sizes, strict=True))
        name = next(_NAMES[cls.__name__] for cls in type(operation).__mro__ if cls.__name__ in _NAMES)
        return emit.new(getattr(keras.layers, name)(windows, windows, name="pooled"), args[0])


class GlobalAveragePooling1D(Expansion):
    """A mean over time as that of an image."""

    handles = ("GlobalAveragePooling1D",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("mask") is not None:
            raise ValueError(
                f"Expected GlobalAveragePooling1D without a mask in {emit.mode}, where a number of steps to divide "
                f"by is coarse. Received: one at {emit.name('')!r}; read the last state of a recurrent layer, which "
                "may be masked, average steps that are all there, or convert with mode='float32' for LiteRT."
            )
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
    made = emit.new(keras.layers.GlobalAveragePooling2D(keepdims=keeps, name="average"), tensor)
    return reshaped(emit, made, (*[1] * len(places), channels), "kept") if keepdims and not keeps else made
