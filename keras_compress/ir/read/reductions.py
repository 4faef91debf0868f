"""Means, sums, maxima and minima over axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_compress.ir.graph import Tensor
from keras_compress.ir.read.pooling import reduced
from keras_compress.ir.read.reader import Reader
from keras_compress.ir.read.table import reads

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
