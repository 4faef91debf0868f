"""Integer lowering: puts exact integers, scales, zero points and biases into a float flatbuffer."""

from keras_compress.convert.lowering import fixed_scale, free_scale, fused_lstm, same_scale, weighted
from keras_compress.convert.lowering.lower import FloatOp, Lowered, lower

__all__ = ["FloatOp", "Lowered", "fixed_scale", "free_scale", "fused_lstm", "lower", "same_scale", "weighted"]
