"""What methods say of weights inside a user's layer that stays closed: it has weights of its own beside sub-layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.post_training.bias_from_data import bias_from_data
from keras_compress.post_training.bias_from_statistics import bias_from_statistics
from keras_compress.post_training.fold_batch_norms import fold_batch_norms
from keras_compress.post_training.gptq import gptq
from keras_compress.post_training.reconstruction import adaround
from keras_compress.post_training.record import NotApplicable, record_of
from keras_compress.post_training.synthetic_data import synthetic_data

X = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")


class Scaled(layers.Layer):
    """`scale * inner(x)`."""

    def __init__(self, normalizes: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.inner = layers.BatchNormalization() if normalizes else layers.Dense(6)

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(), initializer="ones")
        self.inner.build(shape)

    def call(self, inputs: Any) -> Any:
        return self.scale * self.inner(inputs)


def net(normalizes: bool = False, norm: bool = False) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), name="x")
    x = layers.Dense(6, name="open")(Scaled(normalizes, name="closed")(inputs))
    return keras.Model(inputs, layers.BatchNormalization(name="norm")(x) if norm else x, name="net")


def quantized(model: keras.Model) -> keras.Model:
    with pytest.warns(UserWarning, match="Activations inside 'closed' are not quantized"):
        return kc.quantize_model(model, weights="int4")


WARNING: dict[Callable[..., keras.Model], str] = {
    gptq: "Weights rounded to the nearest integer: 'closed/inner': ",
    lambda model, data: adaround(model, data, steps=2): "Weights rounded to the nearest integer: 'closed/inner': ",
    bias_from_data: "Biases left as they are: 'closed/inner': ",
}


@pytest.mark.parametrize("method", WARNING)
def test_weights_that_cannot_be_reached_are_named(method: Callable[..., keras.Model]) -> None:
    with pytest.warns(UserWarning, match=WARNING[method] + "it is inside a layer with weights of its own"):
        method(quantized(net()), X)


def test_biases_that_cannot_be_reached_are_noted() -> None:
    model = quantized(net(norm=True))
    assert "closed/inner" in record_of(bias_from_statistics(model)).notes[-1]


def test_a_normalization_inside_gives_no_data() -> None:
    with pytest.raises(NotApplicable, match="'net', whose graph has none"):
        synthetic_data(net(normalizes=True), 4, steps=1)


def test_a_normalization_inside_is_said_to_be_left() -> None:
    (note,) = record_of(fold_batch_norms(net(normalizes=True))).notes
    assert "closed/inner" in note
