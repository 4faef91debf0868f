from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc
from keras_compress.post_training.opened import opened
from keras_compress.post_training.relative_steps import RelativeAdam, by_variable, units_of
from keras_compress.post_training.start import begin


def test_the_papers_first_steps_in_units() -> None:
    """g = 3, unit = 0.5: the first step is rate * unit; then m = 0.9 * 0.15 - 0.1 * 1, v = 0.999 * 0.00225 + 0.004."""
    variable = keras.Variable([1.0])
    adam = RelativeAdam([variable], [np.float32(0.5)])
    adam.apply([tf.constant([3.0])], tf.constant(0.1))
    np.testing.assert_allclose(variable, [0.95], rtol=1e-6)
    adam.apply([tf.constant([-4.0])], tf.constant(0.1))
    m, v = (0.9 * 0.15 - 0.1 * 2.0) / (1 - 0.9**2), (0.999 * 0.00225 + 0.001 * 4.0) / (1 - 0.999**2)
    np.testing.assert_allclose(variable, [0.95 - 0.05 * m / v**0.5], rtol=1e-5)


def test_with_units_of_1_it_is_keras_s_adam() -> None:
    random = np.random.default_rng(0)
    pair = [keras.Variable(np.ones(5, np.float32)) for _ in range(2)]
    adam, other = RelativeAdam(pair[:1], [np.ones(5, np.float32)]), keras.optimizers.Adam(0.01)
    for _ in range(5):
        gradient = tf.constant(random.normal(size=5), tf.float32)
        adam.apply([gradient], tf.constant(0.01))
        other.apply([gradient], pair[1:])
    np.testing.assert_allclose(pair[0], pair[1], rtol=1e-5)


def test_units_are_steps_and_what_counts_as_much() -> None:
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, name="dense"), layers.PReLU(name="slopes")])
    model.get_layer("dense").set_weights([np.array([[7.0, 1.4], [0.0, 0.0]]), np.zeros(2)])
    model.get_layer("slopes").alpha.assign([0.32, 0.64])
    x = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    made = begin(kc.quantize_model(model, weights=kc.UniformQuantizer(4), activations=None, other_activations=None), x)
    flat = opened(made, x)
    wrapper = made.get_layer("dense")
    quantizer = wrapper.transforms["kernel"][-1]
    units = units_of(flat, [tf.constant(x)])
    found = by_variable(units, [wrapper.latent("kernel"), quantizer.learned, wrapper.layer.bias])
    np.testing.assert_allclose(found[0], [[1.0, 0.2]], rtol=1e-6)
    share = 0.6 / np.sqrt((49.0 + 1.96) / 4.0)
    np.testing.assert_allclose(found[1], share, rtol=1e-5)
    np.testing.assert_allclose(found[2], share * np.sqrt((49.0 + 1.96) / 2.0), rtol=1e-5)
    np.testing.assert_allclose(units[id(made.get_layer("slopes").alpha)], 0.01, rtol=1e-5)
    assert {id(each) for each in flat.trainable_variables} <= set(units)


@pytest.mark.parametrize("weights", ["dorefa3", "pwlq4", "ttq", "lsq4"])
def test_every_trained_variable_has_a_unit(weights: str) -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5, "relu"), layers.Dense(3)])
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    made = begin(kc.quantize_model(model, weights=weights, activations="pact4"), x)
    flat = opened(made, x)
    units = by_variable(units_of(flat, [tf.constant(x)]), flat.trainable_variables)
    assert all(np.isfinite(unit).all() and (np.asarray(unit) > 0).all() for unit in units)
