"""Functions, lambdas and objects of users stay what they are in copies of their layers."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_compress as kc
from keras_compress.graph.model import copy_layer

L = keras.layers
X = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")


def gelu(x):
    """Another function than Keras's of the same name."""
    return 2.0 * ops.tanh(x)


class Bent:
    def __call__(self, x):
        return ops.abs(x)


def filled(shape, dtype=None):
    return ops.full(shape, 0.25, dtype)


class Penalty(keras.regularizers.Regularizer):
    def __call__(self, weights):
        return 0.5 * ops.sum(ops.abs(weights))


class Scaled(L.Layer):
    """Its constructor takes a function."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, inputs):
        return self.function(inputs)

    def get_config(self):
        return {**super().get_config(), "function": self.function}


def net(*layers: keras.layers.Layer, shape: tuple[int, ...] = (8,)) -> keras.Model:
    return keras.Sequential([keras.Input(shape), *layers, L.Flatten(), L.Dense(3)])


ACTIVATIONS = {
    "lambda": lambda x: ops.relu(x) - 0.5,
    "named as Keras's": gelu,
    "object": Bent(),
    "partial": functools.partial(keras.activations.leaky_relu, negative_slope=0.5),
    "tf.nn.swish": tf.nn.swish,
    "layer": L.LeakyReLU(0.25),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_model_with_any_activation_goes_the_whole_way(name: str) -> None:
    """The oracle is the trained model; a copy by name would be Keras's own function, or none."""
    model = net(L.Dense(6, activation=ACTIVATIONS[name]))
    expected = np.array(model(X))
    np.testing.assert_array_equal(np.array(kc.strip(model)(X)), expected)
    np.testing.assert_array_equal(np.array(kc.prune_low_magnitude(model)(X)), expected)
    assert len(kc.quantize_model(model).layers) > len(model.layers)
    assert kc.prune_channels(model, ratio=0.3, round_to=1)(X).shape == expected.shape
    noise = np.std(np.array(kc.freeze(model, X)(X)) - expected) / np.std(expected)
    assert 0 < noise < 0.03


def test_a_users_function_of_a_known_name_is_deployed_as_the_users() -> None:
    model = net(L.Dense(6, activation=gelu))
    artifact = kc.convert(model, representative_dataset=X)
    assert kc.verify(artifact, model, X, kernels=("reference",)).ok


def test_a_function_of_tensorflow_alone_is_refused_by_name_for_integers() -> None:
    model = net(L.Dense(6, activation=lambda x: tf.raw_ops.Relu(features=x) * 2.0, name="odd"))
    assert len(kc.convert(model, mode="float32").content) > 0
    with pytest.raises(ValueError, match=r"Expected activations that compute with `keras.ops`.*'lambda' at 'odd"):
        kc.convert(model, representative_dataset=X)


def test_initializers_regularizers_and_constraints_are_the_same_objects() -> None:
    layer = L.Dense(
        2,
        kernel_initializer=filled,
        bias_initializer=lambda shape, dtype=None: ops.ones(shape, dtype),
        kernel_regularizer=Penalty(),
        bias_constraint=lambda w: ops.clip(w, 0, 1),
    )
    layer.build((None, 3))
    made = copy_layer(layer)
    for name in ("kernel_initializer", "bias_initializer", "kernel_regularizer", "bias_constraint"):
        assert getattr(made, name) is getattr(layer, name)
    assert float(made.losses[0]) == pytest.approx(0.5 * 0.25 * 6)
    assert not isinstance(layer.kernel_initializer, type(None))
    wrapped = kc.prune_low_magnitude(keras.Sequential([keras.Input((3,)), layer]))
    again = copy_layer(wrapped.layers[-1]).layer
    assert again.kernel_regularizer is layer.kernel_regularizer


def test_functions_inside_layers_of_layers_stay() -> None:
    function = lambda x: ops.tanh(x) * 0.5  # noqa: E731
    lstm = net(L.LSTM(3, activation=function, unroll=True), shape=(2, 4))
    spread = net(L.TimeDistributed(L.Dense(3, activation=function)), L.Lambda(lambda x: x * 2.0), shape=(2, 4))
    stacked = net(L.RNN([L.GRUCell(3, activation=gelu), L.GRUCell(2)], unroll=True), shape=(2, 4))
    own = net(L.Dense(4), Scaled(function))
    for model in (lstm, spread, stacked, own):
        x = X.reshape(64, *model.input_shape[1:])
        np.testing.assert_array_equal(np.array(kc.strip(model)(x)), np.array(model(x)))


def test_what_cannot_be_made_again_is_named() -> None:
    class Closed(L.Dense):
        def __init__(self):
            super().__init__(2)

        def get_config(self):
            raise NotImplementedError("nothing to tell")

    layer = Closed()
    layer.build((None, 3))
    with pytest.raises(ValueError, match="Expected Closed to be made again.*nothing to tell"):
        copy_layer(layer)
