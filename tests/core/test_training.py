"""A training is what Keras does when it is told the same."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.recipes.recipe import Stage

X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
Y = X[:, :1] * 2 + 1


def net() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])


def weights(model: keras.Model) -> list[Any]:
    return [np.array(weight) for weight in model.get_weights()]


def by_keras(epochs: int, optimizer: Any) -> list[Any]:
    model = net()
    keras.utils.set_random_seed(7)
    model.compile(optimizer, "mse", jit_compile=False)
    model.fit(X, Y, batch_size=16, epochs=epochs, verbose=0)
    return weights(model)


def test_it_is_adam_whose_rate_falls_as_a_cosine() -> None:
    model = net()
    kc.Training("mse", epochs=3, learning_rate=0.01, batch_size=16, seed=7).on(X, Y)(model)
    # 40 samples in batches of 16 are 3 steps.
    expected = by_keras(3, keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, 9)))
    for got, wanted in zip(weights(model), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_the_step_is_traced_once() -> None:
    traces: list[str] = []

    class Noted(keras.layers.Dense):
        def call(self, inputs: Any, training: Any = None) -> Any:
            if training:
                traces.append(type(inputs).__name__)
            return super().call(inputs)

    model = keras.Sequential([keras.Input((4,)), Noted(1)])
    kc.Training("mse", epochs=2, batch_size=16).on(X, Y)(model)
    assert len(traces) == 1


def test_layers_that_are_built_in_the_first_step_are_trained() -> None:
    model = keras.Sequential([keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
    kc.Training("mse", epochs=20, learning_rate=0.1, batch_size=40).on(X, Y)(model)
    assert np.mean((np.array(model(X)) - Y) ** 2) < 0.1 * np.mean(Y**2)


def test_a_stage_says_what_the_training_leaves_open() -> None:
    model = net()
    kc.Training("mse", decay=False, batch_size=16, seed=7).on(X, Y)(model, Stage("s", "prune", epochs=2))
    for got, wanted in zip(weights(model), by_keras(2, keras.optimizers.Adam(0.001)), strict=True):
        np.testing.assert_array_equal(got, wanted)
    by_kind = kc.Training("mse", {"prune": 2}, {"other": 0.5}, decay=False, batch_size=16, seed=7)
    model = net()
    by_kind.on(X, Y)(model, Stage("s", "prune", epochs=5))
    for got, wanted in zip(weights(model), by_keras(2, keras.optimizers.Adam(0.001)), strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.filterwarnings("ignore:.*does not apply to tf.data functions:UserWarning")
def test_it_goes_where_a_training_is_asked_for() -> None:
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    trained: list[str] = []
    counting = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: trained.append(f"{logs['mae']:.3g}"))
    training = kc.Training("mse", epochs=2, metrics=["mae"], callbacks=[counting])
    fit = training.on(batches)
    assert fit.steps_per_epoch == 5
    kc.compress(net(), "prune", steps_per_epoch=fit.steps_per_epoch, fit=fit)
    assert len(trained) == 2
    small = kc.prune_channels(net(), 0.5, iterations=3, fine_tune=fit, round_to=1)
    assert len(trained) == 6
    assert small.layers[0].units == 4


def test_nothing_to_train_with_is_said() -> None:
    with pytest.raises(ValueError, match="Expected `loss`, `fit`, or a compiled model"):
        kc.Training().on(X, Y)(net())
    with pytest.raises(ValueError, match=r"Expected `learning_rate` > 0. Received: learning_rate=-0.1"):
        kc.Training(learning_rate=-0.1)
