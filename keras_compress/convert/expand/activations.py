"""Activations: those that leave their layer, those made of two kernels, and functions read from a table."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.expand.expansion import Expansion
from keras_compress.convert.expand.weights import frozen
from keras_compress.core import keras_private
from keras_compress.core.registry import PACKAGE
from keras_compress.core.slots import slots_of
from keras_compress.graph.model import copy_layer
from keras_compress.graph.remade import first_line
from keras_compress.quantizers.activation_grid import Staircase
from keras_compress.quantizers.kinds import Kind, activation_name, kind_of, known_activation, splits, unmoved

Tensor = Any


def _rsqrt(x: Tensor, epsilon: float = 0.0) -> Tensor:
    return ops.rsqrt(ops.maximum(x, 0.0) + epsilon)


# Functions of one number that no kernel computes on integers on every runtime. The device reads them from a table.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "ceil": ops.ceil,
    "celu": ops.celu,
    "elu": ops.elu,
    "erf": ops.erf,
    "exp": ops.exp,
    "exponential": ops.exp,
    "floor": ops.floor,
    "gelu": keras.activations.gelu,
    "hard_shrink": ops.hard_shrink,
    "hard_sigmoid": ops.hard_sigmoid,
    "hard_silu": ops.hard_silu,
    "hard_tanh": ops.hard_tanh,
    "leaky_relu": keras.activations.leaky_relu,
    "log_sigmoid": ops.log_sigmoid,
    "mish": keras.activations.mish,
    "relu_between": lambda x, low, high: ops.clip(x, low, high),
    "relu": keras.activations.relu,
    "log": lambda x: ops.log(ops.maximum(x, 1e-7)),
    "over_own_length": lambda x, epsilon: x * ops.rsqrt(ops.square(x) + epsilon),
    "reciprocal": lambda x: 1.0 / x,
    "sin": ops.sin,
    "cos": ops.cos,
    "round": lambda x, decimals=0: ops.round(x, decimals),
    "rsqrt": _rsqrt,
    # For what lies below an end, or above a start, alone: `keras_compress.convert.expand.small_rows`.
    "rsqrt_above": lambda x, epsilon, start, off: _rsqrt(ops.where(x < start, x - off, x), epsilon),
    "rsqrt_below": lambda x, epsilon, end: _rsqrt(ops.where(x < end, x, 0.0), epsilon),
    "selu": ops.selu,
    "soft_shrink": ops.soft_shrink,
    "softplus": ops.softplus,
    "softsign": ops.softsign,
    "sparse_plus": ops.sparse_plus,
    "sparse_sigmoid": ops.sparse_sigmoid,
    "staircase": lambda x, thresholds, levels, step: Staircase(thresholds, levels, step)(x),
    "sqrt": lambda x: ops.sqrt(ops.maximum(x, 0.0)),
    "squareplus": ops.squareplus,
    "tanh_shrink": ops.tanh_shrink,
    "threshold": ops.threshold,
    "trunc": ops.trunc,
}
# Functions that are constant beyond these arguments.
_VARIES_BETWEEN = {
    "hard_sigmoid": (-3.0, 3.0),
    "hard_silu": (-3.0, np.inf),
    "hard_tanh": (-1.0, 1.0),
    **dict.fromkeys(("log", "relu", "rsqrt", "sqrt"), (0.0, np.inf)),
    "relu6": (0.0, 6.0),
}
# Those that do so only by less than half a step of their 8 bits on the device.
_VARIES_ON_8_BITS = {"sigmoid": (-6.5, 6.5), "tanh": (-3.25, 3.25)}
# At which a function is tried.
_ARGUMENTS = 2049


@keras.saving.register_keras_serializable(package=PACKAGE)
class PointwiseFunction(keras.layers.Layer):
    """A function of each number by itself.

    On an int8 tensor it has 256 arguments at most: the device looks them up, which is exact on every runtime.

    Args:
        function: Key of `FUNCTIONS`.
        arguments: Further arguments of the function.

    Raises:
        ValueError: For an unknown function.
    """

    def __init__(self, function: str, arguments: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if function not in FUNCTIONS:
            raise ValueError(f"Expected `function` out of {sorted(FUNCTIONS)}. Received: function={function!r}")
        self.function = function
        self.arguments = dict(arguments or {})
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        return FUNCTIONS[self.function](inputs, **self.arguments)

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "function": self.function, "arguments": self.arguments}


def range_of_use(operation: Any, bits: int = 8) -> tuple[float, float]:
    """Between which arguments a function varies: beyond them it is constant, and any range in front may end there.

    Args:
        operation: Of a flat model. What is no function of each number by itself varies everywhere.
        bits: Of the integers that the function makes.
    """
    name, given = _function_of(operation)
    if name == "relu_between":
        return given["low"], given["high"]
    if name == "relu" and (given.get("negative_slope") or given.get("threshold")):
        return -np.inf, np.inf
    low, high = {**_VARIES_BETWEEN, **(_VARIES_ON_8_BITS if bits == 8 else {})}.get(name, (-np.inf, np.inf))
    highest = given.get("max_value") if name == "relu" else None
    return low, high if highest is None else highest


def function_of(operation: Any) -> Callable[[Any], Any] | None:
    """The function of each number that a table holds; `None` for any other operation of a flat model."""
    return operation.call if isinstance(operation, PointwiseFunction) else None


def varies_between(function: Callable[[Any], Any], low: float, high: float, most: float) -> tuple[float, float]:
    """Between which arguments a function varies: beyond them it is what it is at the end, but for `most` at the most.

    Args:
        function: Of each number of a tensor.
        low: Lowest argument.
        high: Highest one.
        most: A change that does not count.
    """
    x = np.linspace(low, high, _ARGUMENTS, dtype=np.float32)
    y = np.asarray(function(ops.convert_to_tensor(x)))
    below, above = (np.flatnonzero(~(np.abs(y - end) <= most)) for end in (y[0], y[-1]))
    if not np.isfinite(y).all() or not len(below) or not len(above):
        return low, high
    return float(x[below[0] - 1]), float(x[above[-1] + 1])


def _function_of(operation: Any) -> tuple[str, dict[str, Any]]:
    """Name and arguments of a function, `""` for anything else."""
    if isinstance(operation, PointwiseFunction):
        return operation.function, operation.arguments
    if isinstance(operation, keras.layers.ReLU):
        return "relu", {key: getattr(operation, key) for key in ("negative_slope", "threshold", "max_value")}
    if isinstance(operation, keras.layers.Activation):
        return str(activation_name(operation)), {}
    name = type(operation).__name__.lower()
    return (name if name in ("relu", "relu6", "sigmoid", "tanh") else ""), {}


class SplitActivation(Expansion):
    """A weighted layer whose activation no kernel takes along: the layer, linear, and the activation."""

    handles: ClassVar[tuple[str, ...]] = (
        "Dense",
        "Conv1D",
        "Conv2D",
        "Conv2DTranspose",
        "DepthwiseConv1D",
        "DepthwiseConv2D",
    )

    def applies(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return splits(operation) is not None

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        slot = slots_of(operation)[0]
        weight = emit.weight(slot.variable(operation), slot.channel_axes)
        linear = frozen(copy_layer(operation, activation=None, dtype="float32"), weight)
        return with_activation(emit, operation.activation, emit.new(linear, *args, name="linear", **kwargs))


def with_activation(emit: Emitter, activation: Any, tensor: Tensor) -> Tensor:
    """A tensor behind a layer's activation function, as a call of its own."""
    if activation in (None, keras.activations.linear):
        return tensor
    layer = keras.layers.Activation(activation)
    layer.name = str(activation_name(layer)).removeprefix("custom_")
    return emit.new(layer, tensor)


class ActivationLayer(Expansion):
    """`Activation(function)`: SiLU is two kernels, most others are read from a table; a user's own is traced."""

    handles = ("Activation",)

    def applies(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        name = activation_name(operation)
        return (name in ("silu", *FUNCTIONS) and name != "relu") or _is_users(operation.activation)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        activation = operation.activation
        if isinstance(activation, keras.layers.Layer):
            return emit(activation, args[0], name=activation.name)
        if not _is_users(activation):
            return _function(emit, str(activation_name(operation)), args[0])
        name = str(activation_name(operation)).removeprefix("custom_")
        try:
            return emit.apply(activation, args[0], name=name)
        except Exception as error:
            raise ValueError(
                "Expected activations that compute with `keras.ops`, so that they can be lowered to integers. "
                f"Received: the function {name!r} at {emit.name(operation.name)!r}, which fails on symbolic tensors: "
                f"{first_line(error)}. Use `keras.ops` in place of `tf` there, or convert with mode='float32'."
            ) from error


def _is_users(activation: Any) -> bool:
    """Whether an activation is a function or layer that is no known function."""
    return activation is not keras.activations.linear and known_activation(activation) is None


def _function(emit: Emitter, name: str, inputs: Tensor, arguments: dict[str, Any] | None = None) -> Tensor:
    if name == "silu":
        gate = emit.new(keras.layers.Activation("sigmoid", name="sigmoid"), inputs)
        return emit.new(keras.layers.Multiply(name="product"), [inputs, gate])
    if name == "hard_sigmoid" and kind_of(keras_private.maker(unmoved(inputs))) in (Kind.LINEAR, Kind.NORM):
        # The layer before takes the slope and the offset in, and its integers end where the clip does: they are rounded
        # once. In front of a table they would be rounded too, on a grid that lies half a step off that of the outputs.
        sloped = emit.affine(inputs, np.float32(1 / 6), np.float32(0.5), name="sloped")
        return emit.new(PointwiseFunction("relu_between", {"low": 0.0, "high": 1.0}, name=name), sloped)
    return emit.new(PointwiseFunction(name, arguments, name=name), inputs)


class ActivationOperation(Expansion):
    """The same called as `keras.ops`; their settings travel as arguments."""

    handles = ("Silu", "Gelu", "Elu", "Selu", "Celu", "Softplus", "Softsign", "HardSigmoid", "HardTanh", "LogSigmoid",
               "SoftShrink", "HardShrink", "TanhShrink", "Squareplus", "SparsePlus", "SparseSigmoid", "Threshold",
               "Erf", "Exp", "Sqrt", "Rsqrt", "Log", "LeakyRelu", "Reciprocal", "Sin", "Cos",
               "Round", "Floor", "Ceil", "Trunc")  # fmt: skip

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        kind = type(operation).__name__
        settings = {k: v for k, v in operation.get_config().items() if k != "name"}
        named = {**settings, **dict(zip(settings, args[1:], strict=False)), **kwargs}
        return _function(emit, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind).lower(), args[0], named or None)


class Clip(Expansion):
    """`clip` between two numbers."""

    handles = ("Clip",)

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        limits = {"low": float(operation.x_min), "high": float(operation.x_max)}
        return _function(emit, "relu_between", args[0], limits)


class ActivationClass(Expansion):
    """Layers that are an activation with settings of their own."""

    handles = ("ELU", "LeakyReLU", "ReLU")

    def applies(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        # A plain ReLU or ReLU6 is a kernel. LEAKY_RELU is one too, but it rounds otherwise on each runtime.
        odd = type(operation).__name__ == "ReLU" and (
            operation.threshold != 0 or operation.max_value not in (None, 6) or operation.negative_slope != 0
        )
        return odd or type(operation).__name__ in ("ELU", "LeakyReLU")

    def expand(self, emit: Emitter, operation: Any, *args: Any, **kwargs: Any) -> Any:
        if type(operation).__name__ == "ELU":
            return _function(emit, "elu", args[0], {"alpha": float(operation.alpha)})
        if type(operation).__name__ == "LeakyReLU":
            return _function(emit, "leaky_relu", args[0], {"negative_slope": float(operation.negative_slope)})
        settings = {
            "negative_slope": float(operation.negative_slope),
            "max_value": None if operation.max_value is None else float(operation.max_value),
            "threshold": float(operation.threshold),
        }
        return _function(emit, "relu", args[0], settings)
