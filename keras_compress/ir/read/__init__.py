"""From a frozen Keras graph to the intermediate graph: one small file for each family of layers."""

from keras_compress.ir.read import elementwise, functions, lookups, pooling, recurrent, reductions, shapes, weighted
from keras_compress.ir.read.reader import Reader, read

__all__ = [
    "Reader",
    "elementwise",
    "functions",
    "lookups",
    "pooling",
    "read",
    "recurrent",
    "reductions",
    "shapes",
    "weighted",
]
