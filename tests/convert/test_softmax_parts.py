"""Softmaxes whose values do not fit the grid of their kernels: files on all kernels, against the float Keras model."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.convert.softmax_parts import largest_share
from keras_compress.quantizers.activation import FixedGrid
from keras_compress.runtime import deployed
from keras_compress.runtime.kernels import runner_of


def sqnr_db(reference, values):
    varying = np.square(reference - reference.mean(axis=0)).mean()
    return 10 * np.log10(varying / np.square(reference - values).mean())


def converted(model, data, target="litert"):
    """The file, and the worst SQNR of its kernels, all of which are verified."""
    artifact = kc.convert(model, target, representative_dataset=data)
    kernels = ("tflm",) if target == "tflm" else ("xnnpack", "builtin", "reference")
    kc.verify(artifact, model, data, kernels=[kernel for kernel in kernels if kernel != "builtin"])
    found = [deployed.run(runner_of(kernel), artifact.content, [data], "model")[0] for kernel in kernels]
    return artifact, min(sqnr_db(np.asarray(model(data)), each) for each in found)


def attention(spread):
    """Over 100 positions, with scores that differ by about `spread`."""
    keras.utils.set_random_seed(0)
    x = keras.Input((100, 4), name="x")
    rows = layers.Softmax(name="shares")(layers.Dense(100, name="scores")(x))
    model = keras.Model(x, layers.Dot((2, 1), name="context")([rows, x]))
    scores = model.get_layer("scores")
    scores.kernel.assign(np.random.default_rng(0).normal(size=(4, 100)) * spread)
    return model, np.random.default_rng(1).normal(size=(16, 100, 4)).astype(np.float32)


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_shares_of_many_alike_are_told_apart(target):
    """Each is about 0.01, two or three steps of the kernel's grid, which keeps 19 dB."""
    artifact, found = converted(*attention(0.05), target)
    assert "SOFTMAX" not in kc.inspect_tflite(artifact.content).operators
    assert found > 37


def test_shares_that_differ_stay_one_kernel():
    artifact, found = converted(*attention(1.0))
    assert "SOFTMAX" in kc.inspect_tflite(artifact.content).operators
    assert found > 20


def test_shares_of_classes_keep_the_kernels_grid():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), layers.Dense(100, activation="softmax")])
    data = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    artifact = kc.convert(model, representative_dataset=data)
    assert "SOFTMAX" in kc.inspect_tflite(artifact.content).operators


def test_the_largest_share_is_that_of_one_highest_among_lowest():
    # Ends of 0 and log(11): 11 / (11 + 9).
    assert largest_share(FixedGrid(float(np.log(11)) / 255, -128), 10) == pytest.approx(0.55)


@pytest.mark.parametrize("target", ["litert", "tflm"])
def test_logarithms_below_those_that_the_kernel_writes(target):
    """Down to -102, of which the kernel writes -16: less than 0 dB."""
    x = keras.Input((6,), name="x")
    model = keras.Model(x, keras.ops.log_softmax(x))
    data = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32) * np.float32(20)
    assert np.asarray(model(data)).min() < -90
    assert converted(model, data, target)[1] > 35


def test_logarithms_that_the_kernel_writes_stay_one_kernel():
    x = keras.Input((6,), name="x")
    model = keras.Model(x, keras.ops.log_softmax(x))
    data = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    artifact, found = converted(model, data)
    assert "LOG_SOFTMAX" in kc.inspect_tflite(artifact.content).operators
    assert found > 25
