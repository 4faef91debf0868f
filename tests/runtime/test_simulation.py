"""A model as a function of arrays gives what Keras gives, run layer by layer or traced."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.runtime import simulation as module
from keras_compress.runtime.simulation import simulation

layers = keras.layers


def nested() -> keras.Model:
    keras.utils.set_random_seed(0)
    inner = keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(4, 3, padding="same"), layers.ReLU()])
    inputs = keras.Input((8, 8, 3))
    x = inner(layers.Conv2D(4, 3, padding="same", name="first")(inputs))
    x = layers.Dropout(0.5)(layers.BatchNormalization()(x) + x)
    return keras.Model(inputs, [layers.Dense(3)(layers.Flatten()(x)), x])


@pytest.mark.parametrize("untraced", [0, 1, 8])
def test_outputs_and_inner_values_are_those_of_keras(untraced: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCHES_UNTRACED", untraced)
    model = nested()
    x = np.random.default_rng(0).normal(size=(150, 8, 8, 3)).astype(np.float32)
    found = simulation(model, [*model.outputs, model.get_layer("first").output])([x])
    wanted = [*model.predict(x, verbose=0), np.asarray(model.get_layer("first")(x))]
    for values, reference in zip(found, wanted, strict=True):
        np.testing.assert_allclose(values, reference, rtol=1e-4, atol=1e-5)


def test_more_samples_than_are_run_untraced_of_a_model_in_training() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)])
    values = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    quantized = kc.quantize_model(model)
    quantized.compile("sgd", "mse")
    simulate = simulation(quantized, quantized.outputs)
    for scale in (1.0, 3.0):
        # Ranges that move behind the trace count.
        quantized.fit(scale * values, np.zeros((600, 3)), epochs=1, verbose=0)
        np.testing.assert_array_equal(simulate([values])[0], quantized.predict(values, verbose=0))
