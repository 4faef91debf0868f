"""What a user's `call` makes of the size of the batch: constants for each sample, and shapes that begin with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_compress.convert.expand.arithmetic import as_array, combine, is_constant
from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.expansion import Expansion
from keras_compress.convert.expand.products import reshaped
from keras_compress.core.registry import PACKAGE

Tensor = Any


@keras.saving.register_keras_serializable(package=PACKAGE)
class PerSample(keras.layers.Layer):
    """The same values for each sample of a batch.

    Args:
        shape: Their shape, without the batch.
    """

    def __init__(self, shape: Iterable[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shape = tuple(int(n) for n in shape)
        self.values = self.add_weight(name="values", shape=self.shape, initializer="zeros", trainable=False)
        self.built = True

    @classmethod
    def of(cls, values: NDArray[Any], name: str) -> PerSample:
        """A layer that holds `values`, `(1, ...)`."""
        made = cls(values.shape[1:], name=name)
        made.values.assign(values[0])
        return made

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor((inputs.shape[0], *self.shape), self.compute_dtype)

    def call(self, inputs: Tensor) -> Tensor:
        return ops.broadcast_to(self.values, (ops.shape(inputs)[0], *self.shape))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "shape": list(self.shape)}


class Joined(Expansion):
    """`concatenate` and `stack` of tensors with constants, such as the token of a class."""

    handles: ClassVar[tuple[str, ...]] = ("Concatenate", "Stack")

    def applies(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return any(is_constant(part) for part in args[0])

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        tensor = next(part for part in args[0] if not is_constant(part))
        parts = [
            emit(PerSample.of(_of_one(emit, as_array(part)), name="constant"), tensor) if is_constant(part) else part
            for part in args[0]
        ]
        return emit(operation, parts, name="joined")


def _of_one(emit: Emitter, values: NDArray[Any]) -> NDArray[Any]:
    if values.ndim == 0 or values.shape[0] != 1:
        raise ValueError(
            f"Expected a constant for each sample, of shape (batch, ...). Received: {values.shape} at {emit.name('')!r}"
        )
    return values


class Like(Expansion):
    """`ones_like`, `zeros_like` and `full_like`: constants, whatever the tensor holds."""

    handles = ("OnesLike", "ZerosLike", "FullLike")

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        shape, kind = (1, *args[0].shape[1:]), type(operation).__name__
        if kind == "FullLike":
            filled = args[1] if len(args) > 1 else kwargs["fill_value"]
            return np.broadcast_to(as_array(filled), shape)
        return np.ones(shape, np.float32) if kind == "OnesLike" else np.zeros(shape, np.float32)


class ReshapeOperation(Expansion):
    """`ops.reshape(x, (ops.shape(x)[0], ...))`."""

    handles = ("Reshape",)

    def applies(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        first = (getattr(operation, "newshape", None) or (-1,))[0]
        return first is None or first > 1

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        first, *rest = operation.newshape
        if first is None or first == emit.unknown_batch:
            if -1 in rest:
                known = int(np.prod([n for n in rest if n != -1], dtype=np.int64))
                rest[rest.index(-1)] = int(np.prod(args[0].shape[1:], dtype=np.int64)) // known
            return reshaped(emit, args[0], rest)
        if emit.unknown_batch is None or first % emit.unknown_batch or -1 in rest:
            raise ValueError(
                f"Expected shapes that begin with the batch. Received: {tuple(operation.newshape)} at {emit.name('')!r}"
            )
        # Parts of samples as samples.
        return emit(type(operation)((-1, *rest)), args[0], name="reshaped")


class BroadcastTo(Expansion):
    """`ops.broadcast_to(x, (ops.shape(x)[0], ...))` as a product with ones."""

    handles = ("BroadcastTo",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        return combine(emit, "multiply", args[0], np.ones((1, *operation.shape[1:]), np.float32))
