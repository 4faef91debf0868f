"""Two tiny models of the stock converter, float and int8, made once."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf


def _converter(model):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = []
    return converter


@pytest.fixture(scope="session")
def tiny_keras():
    generator = np.random.default_rng(7)
    image = keras.Input((8, 8, 1), batch_size=1, name="image")
    x = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    x = keras.layers.Flatten()(x)
    model = keras.Model(image, keras.layers.Dense(10, name="dense")(x))
    model.set_weights([generator.normal(0, 0.3, w.shape).astype("float32") for w in model.get_weights()])
    return model


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(1).random((20, 8, 8, 1), dtype=np.float32)


@pytest.fixture(scope="session")
def float_model(tiny_keras):
    return bytes(_converter(tiny_keras).convert())


@pytest.fixture(scope="session")
def int8_model(tiny_keras, images):
    converter = _converter(tiny_keras)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Statistics for quantized inputs")
        return bytes(converter.convert())
