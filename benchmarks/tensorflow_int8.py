"""TensorFlow's own post-training quantization, which the benchmarks put beside this library's."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from common import REPOSITORY  # noqa: F401  (the package beside the benchmarks is what is imported)

from keras_compress.convert.native_log import quiet_native_logs


def tensorflow_int8(model: keras.Model, samples: np.ndarray[Any, Any]) -> bytes:
    """The int8 file of TensorFlow's converter, calibrated on samples of the model's only input, one at a time."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with quiet_native_logs():
        return bytes(converter.convert())
