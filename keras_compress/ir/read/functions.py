"""Functions of each number by itself, and those that normalize."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_compress.ir.graph import Tensor
from keras_compress.ir.read.lookups import looked_up
from keras_compress.ir.read.reader import Reader
from keras_compress.ir.read.table import reads
from keras_compress.quantizers.kinds import FIXED_GRIDS, activation_name

# Operators without settings that compute a function on real numbers as Keras does.
_OPERATORS = {
    "relu": "RELU",
    "relu6": "RELU6",
    "sigmoid": "LOGISTIC",
    "tanh": "TANH",
    "softmax": "SOFTMAX",
    "log_softmax": "LOG_SOFTMAX",
    "hard_silu": "HARD_SWISH",
    "exp": "EXP",
    "exponential": "EXP",
    "sin": "SIN",
    "cos": "COS",
}
# Functions of the device's tables that have an int8 kernel within one step of them. It is faster, and needs no int32
# numbers of table entries in the arena.
_NATIVE: dict[str, tuple[str, ...]] = {"litert": ("gelu", "hard_silu"), "tflm": ("hard_silu",)}
# TFLM's LOGISTIC and TANH take the whole function for saturated where a step of the input is this large: up to half
# the outputs' range off.
_TOO_COARSE_FOR_TFLM = 2.0


@reads("Activation", "ReLU", "Softmax", "Sigmoid", "Tanh", "Relu", "Relu6", "LogSoftmax")
def activation(reader: Reader, operation: Any, inputs: Tensor, *args: Any, **named: Any) -> Any:
    """Activations that a kernel computes; coarse ones, and a tanh on another grid, are read from a table."""
    name = activation_name(operation) or ("log_softmax" if type(operation).__name__ == "LogSoftmax" else None)
    if inputs.dtype != "float32" or args or named or not _over_last(operation, inputs):
        return NotImplemented
    if name is None:
        return inputs
    if name in ("sigmoid", "tanh") and not _has_kernel(reader, name, inputs) and _has_table(reader, inputs):
        return looked_up(reader, operation, inputs)
    if type(operation).__name__ == "ReLU" and name == "leaky_relu":
        return _bounded(reader, operation, inputs)
    return applied(reader, name, inputs)


def _bounded(reader: Reader, layer: Any, inputs: Tensor) -> Any:
    """A ReLU with settings of its own: a slope, or a bound other than 6."""
    if layer.threshold != 0 or (layer.max_value is not None and layer.negative_slope != 0):
        return NotImplemented
    if layer.max_value is None:
        return reader.add("LEAKY_RELU", inputs, alpha=float(layer.negative_slope))
    return reader.add("MINIMUM", reader.add("RELU", inputs), np.array(layer.max_value, np.float32))


def applied(reader: Reader, name: str, inputs: Tensor) -> Any:
    """The function of a layer's activation, by name and with its defaults."""
    if name == "softmax":
        return reader.add("SOFTMAX", inputs, beta=1.0)
    if name == "gelu" and reader.target == "tflm":
        return NotImplemented
    return _operator(reader, name, {}, inputs)


def _over_last(operation: Any, inputs: Tensor) -> bool:
    """Whether a softmax, which alone has an axis, is over the last one."""
    axis = getattr(operation, "axis", -1)
    return isinstance(axis, int) and axis % len(inputs.shape) == len(inputs.shape) - 1


def _has_kernel(reader: Reader, name: str, inputs: Tensor) -> bool:
    grid, point = reader.grid(inputs), reader.follows
    # Of a tanh another grid is a finer one; a sigmoid's own has the whole of it, and is moved to the other.
    moved = point is not None and point.bits == 8 and (point.scale, point.zero_point) != FIXED_GRIDS[name]
    if name == "tanh" and moved:
        return False
    return grid is None or reader.target != "tflm" or grid.scale < _TOO_COARSE_FOR_TFLM


def _has_table(reader: Reader, inputs: Tensor) -> bool:
    grid = reader.grid(inputs)
    return grid is not None and grid.bits == 8 and reader.follows is not None


@reads("Clip")
def clip(reader: Reader, operation: Any, inputs: Tensor, *args: Any) -> Any:
    """Between the limits that operators have."""
    limits = (operation.x_min, operation.x_max)
    if inputs.dtype != "float32" or not all(isinstance(n, (int, float)) for n in limits):
        return NotImplemented
    operators = {(-1.0, 1.0): "RELU_N1_TO_1", (0.0, 6.0): "RELU6"}
    found = operators.get((float(limits[0]), float(limits[1])))
    return NotImplemented if found is None else reader.add(found, inputs)


@reads("PointwiseFunction")
def pointwise(reader: Reader, layer: Any, inputs: Tensor) -> Any:
    """A look-up in the 256 values that the point behind the function takes; else an operator on real numbers."""
    if inputs.dtype != "float32":
        return NotImplemented
    if layer.function not in _NATIVE[reader.target] and _has_table(reader, inputs):
        return looked_up(reader, layer, inputs)
    return _operator(reader, layer.function, layer.arguments, inputs)


def _operator(reader: Reader, name: str, settings: dict[str, Any], inputs: Tensor) -> Any:
    if name == "gelu":
        # `keras.activations.gelu` and `keras.ops.gelu` differ in what they do when nothing is said.
        return reader.add("GELU", inputs, approximate=bool(settings.get("approximate", False)))
    if name == "leaky_relu":
        return reader.add("LEAKY_RELU", inputs, alpha=float(settings.get("negative_slope", 0.2)))
    if name == "elu" and float(settings.get("alpha", 1.0)) == 1.0:
        return reader.add("ELU", inputs)
    if name == "silu" and not settings and reader.grid(inputs) is None:
        return reader.add("MUL", inputs, reader.add("LOGISTIC", inputs))
    return reader.add(_OPERATORS[name], inputs) if name in _OPERATORS and not settings else NotImplemented


# What `applied` knows.
APPLIED = frozenset({*_OPERATORS, "gelu", "leaky_relu", "elu", "silu"})
