"""What a layer is to the kernels (tables of LiteRT and TFLite-Micro); activations are known by identity."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_compress.quantizers import kinds
from keras_compress.quantizers.kinds import Kind, activation_name, kind_of, may_follow, splits

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


@pytest.mark.parametrize(
    ("layer", "name", "kind"),
    [
        (layers.ReLU(), "relu", Kind.CLAMP),
        (layers.ReLU(max_value=6), "relu6", Kind.CLAMP),
        (layers.ReLU(max_value=1.0), "leaky_relu", Kind.FREE),
        (layers.ReLU(negative_slope=0.1), "leaky_relu", Kind.FREE),
        (layers.ReLU(threshold=0.5), "leaky_relu", Kind.FREE),
        (layers.ReLU(max_value=6, negative_slope=0.1), "leaky_relu", Kind.FREE),
        (layers.Activation("linear"), None, Kind.SAME),
        (layers.Activation("sigmoid"), "sigmoid", Kind.FIXED),
        (layers.Activation("swish"), "silu", Kind.FREE),
        (layers.Softmax(), "softmax", Kind.FIXED),
        (layers.Dense(2), None, Kind.LINEAR),
        (layers.Dense(2, activation="relu"), "relu", Kind.LINEAR),
        (layers.BatchNormalization(), None, Kind.NORM),
        (layers.AveragePooling2D(2), None, Kind.AVERAGE),
        (layers.MaxPooling2D(2), None, Kind.SAME),
        (layers.UpSampling2D(interpolation="nearest"), None, Kind.SAME),
        (layers.UpSampling2D(interpolation="bilinear"), None, Kind.AVERAGE),
        (layers.Concatenate(), None, Kind.JOIN),
        (layers.Add(), None, Kind.FREE),
    ],
)
def test_names_and_kinds(layer: layers.Layer, name: str | None, kind: Kind) -> None:
    assert activation_name(layer) == name
    assert kind_of(layer) is kind


def test_what_a_kernel_takes_along() -> None:
    plain, active = layers.Dense(2), layers.Dense(2, activation="relu")
    assert may_follow(Kind.LINEAR, plain, Kind.CLAMP)
    assert not may_follow(Kind.LINEAR, active, Kind.CLAMP)
    assert not may_follow(Kind.FREE, layers.Add(), Kind.NORM)
    assert may_follow(Kind.FREE, layers.Add(), Kind.CLAMP)
    assert not may_follow(Kind.SAME, layers.Flatten(), Kind.CLAMP)
    assert not may_follow(Kind.LINEAR, plain, Kind.FREE)


def test_activations_that_leave_their_layer() -> None:
    assert splits(layers.Dense(2, activation="tanh")) == "tanh"
    assert splits(layers.Dense(2, activation="relu")) is None
    assert splits(layers.Dense(2)) is None
    assert splits(layers.Activation("tanh")) is None
