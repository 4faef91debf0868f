"""Arithmetic of two tensors, or of one and a constant."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from keras import layers, ops

from keras_compress.ir.graph import Tensor
from keras_compress.ir.read.reader import Reader
from keras_compress.ir.read.table import reads

_OPERATORS = {
    "Add": "ADD",
    "Subtract": "SUB",
    "Multiply": "MUL",
    "Maximum": "MAXIMUM",
    "Minimum": "MINIMUM",
    "Divide": "DIV",
    "TrueDivide": "DIV",
}
_OF_OPERAND = {"add": "ADD", "subtract": "SUB", "multiply": "MUL", "slope": "PRELU"}


@reads(*_OPERATORS)
def arithmetic(reader: Reader, operation: Any, *args: Any) -> Any:
    """The layers, which take a list, and the operations."""
    operands = args[0] if isinstance(operation, layers.Layer) and len(args) == 1 else args
    read = [_operand(given) for given in operands]
    if len(read) < 2 or not all(_is_float(given) for given in read):
        return NotImplemented
    kind = next(cls.__name__ for cls in type(operation).__mro__ if cls.__name__ in _OPERATORS)
    return functools.reduce(lambda one, other: reader.add(_OPERATORS[kind], one, other), read)


def _operand(given: Any) -> Any:
    return given if isinstance(given, Tensor) else np.asarray(ops.convert_to_numpy(given), np.float32)


def _is_float(given: Any) -> bool:
    return str(given.dtype) == "float32"


@reads("Operand")
def operand(reader: Reader, layer: Any, inputs: Tensor) -> Any:
    """A tensor and a constant that the device holds as integers."""
    constant = reader.kernel(layer)
    return reader.add(_OF_OPERAND[layer.operation], inputs, constant)


@reads("BatchedMatmul", "Matmul")
def batched_matmul(reader: Reader, operation: Any, *args: Any) -> Any:
    """BATCH_MATMUL of two tensors of one rank."""
    first, second = args[0] if len(args) == 1 else args
    if not (isinstance(first, Tensor) and isinstance(second, Tensor)):
        return NotImplemented
    if first.dtype != "float32" or second.dtype != "float32" or len(first.shape) != len(second.shape):
        return NotImplemented
    return reader.add("BATCH_MATMUL", first, second)
