"""Training sees the rounding of average poolings, on the grid of the point before them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.quantizers.round_average import RoundAverage

L = keras.layers


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(16, 8, 8, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def quantized(x):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 2), name="image")
    pooled = L.AveragePooling2D(2, name="pool")(L.Conv2D(3, 3, padding="same", activation="relu", name="conv")(inputs))
    outer = L.MaxPooling2D(2, name="highest")(L.AveragePooling2D(3, 1, padding="same", name="again")(pooled))
    model = kc.quantize_model(keras.Model(inputs, L.Dense(2, name="out")(L.Flatten()(outer))))
    model(x, training=True)
    return model


def values_at(model, name, x):
    return keras.Model(model.inputs, model.get_layer(name).output).predict(x, verbose=0)


def test_means_are_rounded_half_away_from_zero_on_the_grid_before_them(quantized, x):
    scale, zero_point = (float(p) for p in quantized.get_layer("conv_quantized").quantizer.parameters())
    integers = values_at(quantized, "conv_quantized", x).astype(np.float64) / scale + zero_point
    means = integers.reshape(16, 4, 2, 4, 2, 3).mean(axis=(2, 4))
    expected = np.sign(means) * np.floor(np.abs(means) + 0.5 + 1e-4)
    found = values_at(quantized, "pool_rounded", x) / scale + zero_point
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.abs(means - expected).max() > 0.45


def test_trained_and_frozen_model_are_equal(quantized, x):
    trained, frozen = quantized.predict(x, verbose=0), kc.freeze(quantized).predict(x, verbose=0)
    step = float(quantized.get_layer("out_quantized").quantizer.parameters()[0])
    assert (np.abs(trained - frozen) < 0.1 * step).mean() > 0.95
    assert np.ptp(trained) > 50 * step


def test_it_is_found_again_in_copies_files_and_plain_models(quantized, x, tmp_path):
    expected = quantized.predict(x, verbose=0)
    quantized.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("pool_rounded")._held.quantizer is loaded.get_layer("conv_quantized").quantizer
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    np.testing.assert_allclose(kc.strip(quantized).predict(x, verbose=0), expected, atol=1e-5)
    assert [len(v) for v in (loaded.variables, loaded.get_layer("pool_rounded").variables)] == [
        len(quantized.variables),
        0,
    ]


def test_gradients_pass(quantized, x):
    layer = quantized.get_layer("pool_rounded")
    values = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(values)
        total = tf.reduce_sum(layer(values) * values)
    np.testing.assert_allclose(tape.gradient(total, values), x + layer(values).numpy(), rtol=1e-5)


def test_without_a_grid_values_pass():
    inputs = keras.Input((4, 4, 1))
    layer = RoundAverage()
    model = keras.Model(inputs, layer(L.AveragePooling2D(2)(inputs)))
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 1)).astype(np.float32)
    np.testing.assert_allclose(model.predict(x, verbose=0)[:, 0, 0, 0], x[:, :2, :2, 0].mean(axis=(1, 2)), rtol=1e-5)
    untrained = kc.quantize_model(keras.Sequential([keras.Input((4, 4, 1)), L.AveragePooling2D(2), L.Conv2D(1, 1)]))
    assert any(isinstance(each, RoundAverage) for each in untrained.layers)
    with pytest.warns(UserWarning, match="no training batch"):
        untrained(x)
