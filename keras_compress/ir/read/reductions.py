"""Means, sums, maxima and minima over axes, and where the latter are."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_compress.ir.builder import integers
from keras_compress.ir.graph import Tensor
from keras_compress.ir.read.pooling import reduced
from keras_compress.ir.read.reader import Reader
from keras_compress.ir.read.table import reads
from keras_compress.ir.read.weighted import reshaped

_OPERATORS = {"Mean": "MEAN", "Sum": "SUM", "Max": "REDUCE_MAX", "Amax": "REDUCE_MAX", "Min": "REDUCE_MIN",
              "Amin": "REDUCE_MIN"}  # fmt: skip


@reads(*_OPERATORS)
def reduction(reader: Reader, operation: Any, inputs: Tensor) -> Any:
    """One operator; all axes where none are named."""
    if inputs.dtype != "float32" or getattr(operation, "initial", None) is not None:
        return NotImplemented
    rank, axis = len(inputs.shape), operation.axis
    axes = range(rank) if axis is None else sorted({int(a) % rank for a in np.atleast_1d(axis)})
    return reduced(reader, _OPERATORS[type(operation).__name__], inputs, axes, bool(operation.keepdims))


@reads("Argmax", "Argmin")
def place_of_extreme(reader: Reader, operation: Any, inputs: Tensor) -> Any:
    """Where the largest or smallest value along an axis is, the first of several."""
    rank, axis = len(inputs.shape), operation.axis
    if inputs.dtype != "float32" or axis is None:
        return NotImplemented
    kind = {"Argmax": "ARG_MAX", "Argmin": "ARG_MIN"}[type(operation).__name__]
    made = reader.add(kind, inputs, integers(int(axis) % rank), dtype="int32")
    kept = tuple(1 if a == int(axis) % rank else n for a, n in enumerate(inputs.shape))
    return reshaped(reader, made, kept) if operation.keepdims else made
