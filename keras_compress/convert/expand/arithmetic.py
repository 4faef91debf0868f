"""Arithmetic with constants, and the operations that have a simpler equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import NDArray

from keras_compress.convert.expand.activations import PointwiseFunction
from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.expansion import Expansion
from keras_compress.convert.expand.weights import default_integers, frozen
from keras_compress.core.registry import PACKAGE

Tensor = Any
Array = NDArray[Any]
_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    # `ops.add` takes (1, n, 1) for a bias of the last axis where that has n channels.
    "add": tf.add,
    "subtract": ops.subtract,
    "multiply": ops.multiply,
    # PRELU, written as Keras does.
    "slope": lambda x, slope: ops.relu(x) + -slope * ops.relu(-x),
}


@keras.saving.register_keras_serializable(package=PACKAGE)
class Operand(keras.layers.Layer):
    """`inputs op constant`, with a constant tensor that the device holds as int8 integers under one scale.

    Args:
        operation: `"add"`, `"subtract"`, `"multiply"`, or `"slope"`: a product where the input is negative.
        shape: Shape of the constant; it broadcasts against a sample.
    """

    def __init__(self, operation: str, shape: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.operation = operation
        self.shape = tuple(int(n) for n in shape)
        self.kernel = self.add_weight(name="kernel", shape=self.shape, initializer="zeros")
        self.built = True

    def get_compressible_weights(self) -> dict[str, tuple[int, ...]]:
        return {"kernel": ()}

    def call(self, inputs: Tensor) -> Tensor:
        return _OPERATIONS[self.operation](inputs, self.kernel)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "operation": self.operation, "shape": list(self.shape)}


def is_constant(value: Any) -> bool:
    """Whether an argument of a call is no tensor of the graph."""
    return value is not None and not isinstance(value, keras.KerasTensor)


def as_array(value: Any) -> Array:
    """A constant argument as float32 numbers."""
    return np.asarray(ops.convert_to_numpy(value), np.float32)


class Arithmetic(Expansion):
    """Add, subtract, multiply or divide by a constant.

    A number stays an operand, a vector over the channels goes into the layer before it or becomes a 1x1 depthwise
    convolution, any other tensor becomes an int8 constant.
    """

    # Add and Multiply, which are also layers, are in `keras_compress.convert.expand.merges`.
    handles: ClassVar[tuple[str, ...]] = ("Subtract", "Divide", "TrueDivide")

    def applies(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        constant = len(args) == 2 and (is_constant(args[0]) or is_constant(args[1]))
        return constant or (len(args) == 2 and type(operation).__name__ in ("Divide", "TrueDivide"))

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        kind = {"TrueDivide": "divide"}.get(type(operation).__name__, type(operation).__name__.lower())
        first, second = args
        if not is_constant(second) and kind == "divide":
            # DIV has no int8 kernel; the reciprocal is read from a table.
            reciprocal = emit.new(PointwiseFunction("reciprocal", name="reciprocal"), second)
            if is_constant(first):
                return combine(emit, "multiply", reciprocal, as_array(first))
            return emit.new(keras.layers.Multiply(name="quotient"), [first, reciprocal])
        if is_constant(first):
            return self._constant_first(emit, kind, as_array(first), second)
        value = as_array(second)
        if kind == "divide":
            kind, value = "multiply", (1.0 / value.astype(np.float64)).astype(np.float32)
        if kind == "add":
            value = _as_added(first, value)
        if kind == "subtract":
            kind, value = "add", -value
        return combine(emit, kind, first, value)

    def _constant_first(self, emit: Emitter, kind: str, value: Array, tensor: Tensor) -> Tensor:
        if kind != "subtract":
            return combine(emit, kind, tensor, value)
        # c - x = -x + c
        if of_channels(tensor, value):
            channels = (tensor.shape[-1],)
            return emit.affine(
                tensor, np.full(channels, -1.0), np.broadcast_to(value.reshape(-1), channels), "subtract"
            )
        return combine(emit, "add", combine(emit, "multiply", tensor, np.float32(-1.0)), value)


def _as_added(tensor: Tensor, value: Array) -> Array:
    """A constant as `ops.add` adds it: one of n numbers goes to the last axis, or else the first, that has n places."""
    places, rank = value.size, len(tensor.shape)
    if rank < 2 or places == 1 or max(value.shape) != places or places not in (tensor.shape[1], tensor.shape[-1]):
        return value
    return value.reshape(-1) if places == tensor.shape[-1] else value.reshape(-1, *[1] * (rank - 2))


def combine(emit: Emitter, kind: str, tensor: Tensor, value: Any) -> Tensor:
    """`tensor + value` or `tensor * value`, in the cheapest exact form."""
    value = np.asarray(value, np.float32)
    neutral = 0.0 if kind == "add" else 1.0
    if np.all(value == neutral) and not _grows(tensor, value):
        return tensor
    if of_channels(tensor, value):
        vector = np.broadcast_to(value.reshape(-1), (tensor.shape[-1],))
        return emit.affine(tensor, **{"factor" if kind == "multiply" else "offset": vector}, name=kind)
    layer = Operand(kind, value.shape, name=kind)
    return emit.new(frozen(layer, default_integers(value, ())), tensor)


def _grows(tensor: Tensor, value: Array) -> bool:
    """Whether the tensor broadcasts to a larger shape."""
    shape = tuple(n or 1 for n in tensor.shape)
    return np.broadcast_shapes(value.shape, shape) != shape


def of_channels(tensor: Tensor, value: Array) -> bool:
    """Whether a constant is one number, or one for each channel."""
    fits = value.size == 1 or (value.size == tensor.shape[-1] and value.shape[-1] == tensor.shape[-1])
    return fits and len(tensor.shape) > 1 and not _grows(tensor, value)


class Square(Expansion):
    """`x * x`: SQUARE and POW have no int8 kernel."""

    handles = ("Square", "Power")

    def applies(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return len(args) == 1 or (
            is_constant(args[1]) and as_array(args[1]).size == 1 and as_array(args[1]).item() == 2
        )

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        return emit.new(keras.layers.Multiply(name="square"), [args[0], args[0]])


class Negative(Expansion):
    """`-x` as a product."""

    handles = ("Negative",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        return combine(emit, "multiply", args[0], np.float32(-1.0))


class ParametricReLU(Expansion):
    """PReLU, whose slopes are integers on the device."""

    handles = ("PReLU",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        slopes = as_array(operation.alpha)
        return emit.new(frozen(Operand("slope", slopes.shape, name="slope"), default_integers(slopes, ())), args[0])
