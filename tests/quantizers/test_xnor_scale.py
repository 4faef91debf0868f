"""XNOR-Net's scale of the inputs."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.core import registry

X = np.array([[1.0, -3.0], [2.0, 0.0], [-1.0, 1.0], [4.0, 4.0]], np.float32).reshape(1, 2, 2, 2)


def test_magnitude_is_the_papers() -> None:
    """A: means of |x| over the channels, 2, 1, 1, 4; K: their mean under a window of 2 x 2."""
    assert np.array(kc.XnorScale(2).magnitude(X)).reshape(-1).tolist() == [2.0]
    assert np.array(kc.XnorScale(1).magnitude(X)).reshape(-1).tolist() == [2.0, 1.0, 1.0, 4.0]
    # Padded with zeros, as the convolution is: (2 + 1 + 1 + 4) / 4, (1 + 4) / 4, (1 + 4) / 4, 4 / 4.
    assert np.array(kc.XnorScale(2, padding="same").magnitude(X)).reshape(-1).tolist() == [2.0, 1.25, 1.25, 1.0]
    assert np.array(kc.XnorScale(1, strides=2).magnitude(X)).reshape(-1).tolist() == [2.0]


def test_forward_and_true_gradient() -> None:
    y, x = tf.constant(np.full((1, 1, 1, 3), 5.0, np.float32)), tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch([y, x])
        scaled = kc.XnorScale(2)([y, x], training=True)
    to_y, to_x = tape.gradient(scaled, [y, x])
    assert np.array(scaled).reshape(-1).tolist() == [10.0, 10.0, 10.0]
    assert np.array(to_y).reshape(-1).tolist() == [2.0, 2.0, 2.0]
    # d K / d x = sign(x) / (channels * window); three outputs of 5.
    np.testing.assert_allclose(np.array(to_x), np.sign(X) * 15 / 8)


def test_a_constant_is_the_moving_average_of_the_means() -> None:
    layer = kc.XnorScale(2, constant=True, momentum=0.5)
    y = np.ones((1, 1, 1, 1), np.float32)
    assert float(np.array(layer([y, X])).item()) == 1.0  # no batch yet
    layer([y, X], training=True)
    assert float(np.array(layer([y, 9 * X])).item()) == 2.0
    layer([y, 4 * X], training=True)
    # (0.5 * 0.5 * 2 + 0.5 * 8) / (1 - 0.25)
    np.testing.assert_allclose(float(np.array(layer([y, X])).item()), 6.0, rtol=1e-6)
    layer.trainable = False
    layer([y, 50 * X], training=True)
    np.testing.assert_allclose(float(layer.factor()), 6.0, rtol=1e-6)


@pytest.mark.parametrize("sample", kc.XnorScale.samples())
def test_config_and_training(sample: dict, tmp_path) -> None:
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6, 6, 2))
    strides, padding = sample.get("strides", 1), sample.get("padding", "valid")
    y = kc.BinaryConv2D(3, 3, strides=strides, padding=padding, input_quantizer="ste_sign")(x)
    y = kc.XnorScale(**sample)([y, x])
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(y)))
    data = np.random.default_rng(0).normal(size=(64, 6, 6, 2)).astype(np.float32)
    model.compile(keras.optimizers.Adam(0.02), "mse")
    losses = model.fit(data, np.abs(data).mean((1, 2, 3)), epochs=8, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(np.array(model(data)), np.array(again(data)))


def test_every_registered_layer_round_trips() -> None:
    for cls in registry.entries("layer").values():
        for sample in cls.samples():
            made = cls(**sample)
            assert type(made).from_config(made.get_config()).get_config() == made.get_config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding": "causal"}, "Received: padding='causal'"),
        ({"momentum": 1.0}, r"in \(0, 1\). Received: momentum=1.0"),
    ],
)
def test_arguments_out_of_range(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kc.XnorScale(3, **arguments)
