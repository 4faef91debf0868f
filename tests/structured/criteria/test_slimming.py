"""The penalty of network slimming."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc

X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(8, 2)).astype(np.float32)
RATE, STRENGTH = 0.5, 0.01


def _model() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    x = layers.ReLU()(layers.BatchNormalization(name="hidden_norm")(layers.Dense(4, name="hidden")(inputs)))
    model = keras.Model(inputs, layers.BatchNormalization(name="output_norm")(layers.Dense(2)(x)))
    model.get_layer("hidden_norm").gamma.assign([0.5, -2.0, 0.0, 1.0])
    return model


def _gammas_after_a_step(model: keras.Model, name: str) -> np.ndarray:
    model.compile(keras.optimizers.SGD(RATE), "mse", run_eagerly=True)
    model.fit(X, Y, batch_size=8, epochs=1, verbose=0)
    return np.array(model.get_layer(name).gamma)


def test_a_step_moves_gammas_by_the_subgradient(tmp_path) -> None:
    slimmed = kc.add_slimming(_model(), STRENGTH)
    np.testing.assert_array_equal(slimmed(X), _model()(X))
    slimmed.save(tmp_path / "m.keras")
    without = _gammas_after_a_step(_model(), "hidden_norm")
    for model in (slimmed, keras.models.load_model(tmp_path / "m.keras")):
        moved = _gammas_after_a_step(model, "hidden_norm") - without
        # strength * sign(gamma), 0 at 0.
        np.testing.assert_allclose(moved, -RATE * STRENGTH * np.array([1.0, -1.0, 0.0, 1.0]), atol=5e-7)
    assert slimmed.get_layer("output_norm").gamma_regularizer is None
    np.testing.assert_array_equal(
        _gammas_after_a_step(kc.add_slimming(_model(), STRENGTH), "output_norm"),
        _gammas_after_a_step(_model(), "output_norm"),
    )


def test_rules_and_what_cannot_be_slimmed() -> None:
    rules = [{"layers": "hidden_norm", "strength": 0.3}]
    assert float(kc.add_slimming(_model(), rules=rules).losses[0]) == pytest.approx(0.3 * 3.5)
    with pytest.raises(ValueError, match="Expected gammas without a regularizer. Received: 'hidden_norm' with L1"):
        kc.add_slimming(kc.add_slimming(_model()))
    with pytest.raises(ValueError, match="Received: strength=0"):
        kc.add_slimming(_model(), 0.0)
    with pytest.raises(ValueError, match="matches none of"):
        kc.add_slimming(_model(), filters="output_norm")
    with pytest.raises(ValueError, match="Expected a model with BatchNormalization layers"):
        kc.add_slimming(keras.Sequential([keras.Input((3,)), layers.Dense(2), layers.Dense(1)]))
