"""Integer lowering: a rule for each kind of operator puts exact integers, scales and zero points into a file."""

from keras_compress.tflite.lowering import fixed_scale, free_scale, fused_lstm, same_scale, weighted

__all__ = ["fixed_scale", "free_scale", "fused_lstm", "same_scale", "weighted"]
