"""Activations are known by what they are, not by what they are called."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from keras_compress.quantizers import kinds

X = np.linspace(-4, 4, 33, dtype="float32").reshape(3, 11)


def test_functions_of_tensorflow_and_keras_are_what_they_are_taken_for() -> None:
    functions = [getattr(tf.nn, name) for name in kinds._IN_TENSORFLOW] + [tf.nn.gelu, tf.exp, tf.tanh, tf.sigmoid]
    functions += [getattr(keras.ops, name) for name in kinds._IN_OPS]
    for function in functions:
        name = kinds.known_activation(function)
        expected = getattr(keras.activations, str(name))(X)
        np.testing.assert_allclose(np.array(function(X)), np.array(expected), atol=2e-6, err_msg=str(name))


def test_other_functions_are_not_known_by_their_name() -> None:
    def relu(x):
        return x

    assert kinds.known_activation(keras.ops.gelu) is None  # it approximates, the activation does not
    assert kinds.activation_name(keras.layers.Dense(2, activation=relu)) == "custom_relu"
    assert kinds.kind_of(keras.layers.Activation(relu)) is kinds.Kind.FREE
    assert kinds.kind_of(keras.layers.Activation(tf.nn.relu6)) is kinds.Kind.CLAMP
    assert kinds.activation_name(keras.layers.Dense(2)) is None
