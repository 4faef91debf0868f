"""16-bit activations: kernels saturate by themselves, at the lowest integer of a tensor."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc

KERNELS = ("xnnpack", "reference", "tflm")
X = np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype(np.float32)


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu")(inputs)
    x = layers.Add()([x, layers.Conv2D(4, 1)(x)])
    x = layers.Activation("tanh")(layers.AveragePooling2D(2)(x))
    return keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x)))


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_calibrated_ranges_need_no_operators(model, target):
    artifact = kc.convert(model, target, mode="16x8", representative_dataset=X)
    assert "MAXIMUM" not in kc.inspect_tflite(artifact.content).operators
    # Beyond the ranges too, where integers saturate.
    assert kc.verify(artifact, model, 3 * X, kernels=KERNELS).ok
    # Weights have 8 bits; outputs go to 2.
    assert np.abs(np.asarray(model(X)) - np.asarray(artifact.frozen(X))).max() < 0.02


def test_trained_ranges_cut_where_they_end(model):
    trained = kc.quantize_model(model, activations=kc.MovingAverageRange(bits=16))
    trained(X, training=True)
    artifact = kc.convert(trained)
    assert artifact.mode == "16x8"
    assert kc.inspect_tflite(artifact.content).operators["MAXIMUM"] >= 1
    assert kc.verify(artifact, trained, 3 * X, kernels=KERNELS).ok


def test_a_grid_down_to_the_lowest_integer():
    grid = kc.FixedGrid(0.5, 0, bits=16, lowest=-32768)
    assert np.asarray(grid(np.float32([-1e6, -16384.0, -16383.5, 1e6]))).tolist() == [-16384, -16384, -16383.5, 16383.5]
