"""From a frozen Keras graph to the intermediate graph: one small file for each family of layers."""

from keras_compress.ir.read import (
    elementwise,
    functions,
    lookups,
    plain,
    pooling,
    recurrent,
    reductions,
    shapes,
    shifts,
    weighted,
)
from keras_compress.ir.read.reader import Reader, UnknownOperationError, read

__all__ = [
    "Reader",
    "UnknownOperationError",
    "elementwise",
    "functions",
    "lookups",
    "plain",
    "pooling",
    "read",
    "recurrent",
    "reductions",
    "shapes",
    "shifts",
    "weighted",
]
