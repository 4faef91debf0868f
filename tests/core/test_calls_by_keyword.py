"""Layers called as `layer(inputs=x)`: everything that is done with them is what is done with `layer(x)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.graph import graph
from keras_compress.post_training.fold_batch_norms import fold_batch_norms
from keras_compress.report.macs import positions_by_layer

X = np.random.default_rng(1).normal(size=(8, 6, 6, 3)).astype("float32")
Y = np.arange(8) % 4


def _called(layer: Any, by_keyword: bool, name: str, first: Any, **others: Any) -> Any:
    return layer(**{name: first, **others}) if by_keyword else layer(first, **others)


def _images(by_keyword: bool) -> keras.Model:
    def called(layer: Any, tensor: Any) -> Any:
        return _called(layer, by_keyword, "inputs", tensor)

    keras.utils.set_random_seed(0)
    fed = keras.Input((6, 6, 8))
    nested = keras.Model(fed, called(layers.Conv2D(8, 3, activation="relu", name="inner"), fed), name="nested")
    inputs = keras.Input((6, 6, 3), name="image")
    x = called(layers.SeparableConv2D(8, 3, padding="same", name="separable"), inputs)
    x = called(layers.ReLU(name="relu"), called(layers.BatchNormalization(name="norm"), x))
    x = called(layers.Add(name="add"), [x, called(layers.Conv2D(8, 1, name="one"), x)])
    x = called(layers.GlobalAveragePooling2D(name="mean"), called(nested, x))
    return keras.Model(inputs, called(layers.Dense(4, name="out"), x), name="images")


def _sequences(by_keyword: bool) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 3), name="words")
    state = layers.Dense(8, name="state")(layers.Flatten(name="flat")(inputs))
    x = layers.Dense(4, name="before")(inputs)
    x = _called(layers.LSTM(8, name="lstm"), by_keyword, "sequences", x, initial_state=[state, state])
    return keras.Model(inputs, layers.Dense(4, name="out")(x), name="sequences")


def _pruned(model: keras.Model) -> keras.Model:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return kc.prune_channels(model, 0.5, criterion="taylor", data=(X, Y), loss=loss)


DONE: dict[str, Callable[[keras.Model], Any]] = {
    "file": lambda model: kc.convert(model, representative_dataset=X).content,
    "folded": lambda model: fold_batch_norms(model).predict(X, verbose=0),
    "factorized": lambda model: kc.factorize(model, "svd", 0.5, data=X).predict(X, verbose=0),
    "pruned": lambda model: _pruned(model).predict(X, verbose=0),
}


@pytest.mark.parametrize("done", DONE)
def test_of_layers_called_by_keyword_the_same_comes_out(done: str) -> None:
    by_position, by_keyword = (DONE[done](_images(each)) for each in (False, True))
    np.testing.assert_array_equal(np.asarray(by_keyword), np.asarray(by_position))


def test_the_first_input_is_the_first_parameter_and_not_the_first_keyword() -> None:
    by_position, by_keyword = (_sequences(each) for each in (False, True))
    # Keras lists keywords in the order of the alphabet, `initial_state` before `sequences`.
    assert positions_by_layer(by_keyword)[id(by_keyword.get_layer("lstm"))] == 6
    x = X[:, :, 0]
    one, two = (kc.prune_channels(each, 0.5).predict(x, verbose=0) for each in (by_position, by_keyword))
    np.testing.assert_array_equal(two, one)


def test_what_has_no_first_parameter_by_name_is_left() -> None:
    class Own(layers.Layer):
        def call(self, *tensors: Any, scale: Any = 1.0) -> Any:
            return scale

    assert graph.by_position(Own(), (), {"scale": 2.0}) == ((), {"scale": 2.0})
    assert graph.by_position(layers.Dense(1), (3,), {"training": True}) == ((3,), {"training": True})
    assert graph.by_position(layers.Dense(1), (), {"training": True, "inputs": 3}) == ((3,), {"training": True})
