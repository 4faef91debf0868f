"""Merging layers of more tensors, or with more steps, than one kernel has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from keras_compress.convert.expand.arithmetic import Arithmetic, combine
from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.expansion import Expansion
from keras_compress.convert.expand.products import Matmul, batched_product, reshaped

Tensor = Any


def is_layer(operation: Any) -> bool:
    """Whether this is the layer, not the Keras operation of the same name."""
    return isinstance(operation, keras.layers.Layer)


def by_pairs(emit: Emitter, kind: str, tensors: Sequence[Tensor]) -> Tensor:
    """A merge of many tensors, two at a time: the kernels take two."""
    made = tensors[0]
    for number, tensor in enumerate(tensors[1:], 1):
        made = emit.new(getattr(keras.layers, kind)(name=f"{kind.lower()}{number}"), [made, tensor])
    return made


class Sum(Arithmetic):
    """The layers `Add` and `Multiply` of three tensors and more; the operations are arithmetic."""

    handles: ClassVar[tuple[str, ...]] = ("Add", "Multiply")

    def applies(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return len(args[0]) > 2 if is_layer(operation) else super().applies(operation, args, kwargs)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_layer(operation):
            return super().expand(emit, operation, *args, **kwargs)
        return by_pairs(emit, type(operation).__name__, args[0])


class Extreme(Expansion):
    """The layers `Maximum` and `Minimum` of three tensors and more."""

    handles = ("Maximum", "Minimum")

    def applies(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return is_layer(operation) and len(args[0]) > 2

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        return by_pairs(emit, type(operation).__name__, args[0])


class Average(Expansion):
    """The layer `Average`: a sum, and a factor."""

    handles = ("Average",)

    def applies(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return is_layer(operation)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        return combine(emit, "multiply", by_pairs(emit, "Add", args[0]), np.float32(1 / len(args[0])))


class Dot(Matmul):
    """The layer `Dot` of two tensors as a batched matrix product; the operation `dot` with a constant is a `matmul`."""

    handles = ("Dot",)

    def applies(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return is_layer(operation) or super().applies(operation, args, kwargs)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_layer(operation):
            return super().expand(emit, operation, *args, **kwargs)
        first, second = args[0]
        axes = [operation.axes] * 2 if isinstance(operation.axes, int) else list(operation.axes)
        if operation.normalize:
            axes_at = [a % len(t.shape) == len(t.shape) - 1 for a, t in zip(axes, (first, second), strict=True)]
            if not all(axes_at):
                raise ValueError(
                    f"Expected normalize=True over the last axes. Received: axes={axes} at {emit.name('')!r}"
                )
            first, second = (emit.new(keras.layers.UnitNormalization(name="unit"), t) for t in (first, second))
        one, two = "abcd"[: len(first.shape)], "awxy"[: len(second.shape)]
        summed = one[axes[0] % len(one)]
        two = two.replace(two[axes[1] % len(two)], summed)
        output = "a" + one[1:].replace(summed, "") + two[1:].replace(summed, "")
        made = batched_product(emit, f"{one},{two}->{output}", first, second, "dot")
        return reshaped(emit, made, (1,), "column") if len(output) == 1 else made
