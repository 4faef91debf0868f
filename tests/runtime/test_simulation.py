"""A model as a function of arrays gives what Keras gives, run layer by layer or traced."""

from __future__ import annotations

import keras
import numpy as np
import pytest

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
