"""Softmax over any axes of a sample: the kernels know the last one."""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from keras_compress.convert.expand.attention import refuse_masks
from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.expansion import Expansion
from keras_compress.convert.expand.normalizations import by_rows, sample_axes


class Softmax(Expansion):
    """The layer `Softmax`, and the operations `softmax` and `log_softmax`."""

    handles: ClassVar[tuple[str, ...]] = ("Softmax", "LogSoftmax")

    def applies(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        axes = operation.axis if isinstance(operation.axis, (list, tuple)) else [operation.axis]
        if type(operation).__name__ == "LogSoftmax":
            return True
        masked = len(args) > 1 or kwargs.get("mask") is not None
        return masked or [a if a is None else a % len(args[0].shape) for a in axes] != [len(args[0].shape) - 1]

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        refuse_masks(emit, {**dict(zip(("inputs", "mask"), args, strict=False)), **kwargs})
        logarithm = type(operation).__name__ == "LogSoftmax"
        # As a layer the grid that its kernel writes on is known.
        over_last = keras.layers.Activation("log_softmax") if logarithm else keras.layers.Softmax(name="softmax")
        return by_rows(emit, args[0], sample_axes(emit, operation.axis, args[0]), lambda rows: emit(over_last, rows))
