from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.quantizers.kinds import Place
from keras_compress.quantizers.model import activation_quantizer

SIGNS = [kc.SteSignActivation, kc.ApproxSignActivation, kc.SwishSignActivation]


def gradient(quantizer, x: list[float]) -> list[float]:
    """Gradient of x where the gradient i + 1 arrives at the output i, divided by it."""
    inputs, upstream = tf.constant(x), tf.range(1.0, len(x) + 1.0)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(quantizer(inputs, training=True) * upstream)
    return (tape.gradient(loss, inputs) / upstream).numpy().tolist()


@pytest.mark.parametrize("sign", SIGNS)
def test_the_sign_of_zero_is_one(sign) -> None:
    x = np.array([-3.0, -1e-30, -0.0, 0.0, 1e-30, 3.0], np.float32)
    for training in (False, True):
        assert np.array(sign()(x, training=training)).tolist() == [-1, -1, 1, 1, 1, 1]
    half = sign()(x.astype(np.float16), training=True)
    assert half.dtype == tf.float16


@pytest.mark.parametrize("sign", SIGNS)
def test_plain_operations_are_the_same_function(sign) -> None:
    x = np.random.default_rng(0).normal(size=(4, 50)).astype(np.float32)
    x[0, :3] = 0.0
    inputs = keras.Input((50,))
    plain = keras.Model(inputs, sign().plain(inputs))
    np.testing.assert_array_equal(np.array(plain(x)), np.array(sign()(x)))
    np.testing.assert_array_equal(np.array(sign().unrounded(x)), np.array(sign()(x)))


def test_clipped_straight_through_gradient() -> None:
    x = [-1.5, -1.0, -0.3, 0.0, 1.0, 1.01]
    assert gradient(kc.SteSignActivation(), x) == [0, 1, 1, 1, 1, 0]


def test_bi_real_gradient() -> None:
    x = [-1.5, -1.0, -0.25, 0.0, 0.75, 1.5]
    assert gradient(kc.ApproxSignActivation(), x) == [0, 0, 1.5, 2, 0.5, 0]


@pytest.mark.parametrize("beta", [2.0, 5.0])
def test_swish_sign_gradient(beta: float) -> None:
    x = [-2.0, -0.4, 0.0, 0.1, 0.7]
    expected = [beta * (2 - beta * v * math.tanh(beta * v / 2)) / (1 + math.cosh(beta * v)) for v in x]
    assert gradient(kc.SwishSignActivation(beta), x) == pytest.approx(expected, abs=1e-5)
    assert expected[2] == beta
    assert gradient(kc.SwishSignActivation(beta), [1e4, -1e30]) == [0, 0]


def test_default_beta_is_the_paper_s() -> None:
    assert kc.SwishSignActivation().get_config()["beta"] == 5.0


@pytest.mark.parametrize(
    ("alias", "cls"),
    [
        ("ste_sign", kc.SteSignActivation),
        ("approx_sign", kc.ApproxSignActivation),
        ("SwishSignActivation", kc.SwishSignActivation),
    ],
)
def test_found_by_the_names_that_users_write(alias: str, cls: type) -> None:
    assert type(activation_quantizer(alias)) is cls


def test_it_takes_the_place_of_relus_only() -> None:
    sign = kc.SteSignActivation()
    assert [sign.stands_at(place) for place in (Place.RELU, Place.NON_NEGATIVE, Place.ANYWHERE)] == [True, False, False]
    inputs = keras.Input((5,))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Dense(4, activation="relu")(inputs)))
    quantized = kc.quantize_model(model, weights=None, activations="ste_sign", other_activations=None)
    hidden = keras.Model(quantized.input, quantized.layers[-1].input)
    x = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    assert np.unique(np.array(hidden(x))).tolist() == [-1, 1]
    np.testing.assert_array_equal(np.array(hidden(x)), np.where(np.array(model.layers[1](x)) > 0, 1, -1))


def test_a_sign_is_one_bit_on_the_grid_of_minus_one_and_one() -> None:
    sign = kc.SteSignActivation()
    assert sign.bits == 1
    assert [float(p) for p in sign.parameters()] == [1.0, 0.0]
    assert (sign.spec.minimum, sign.spec.maximum) == (-1, 1)
    assert [float(end) for end in sign.range()] == [-1.0, 1.0]
    assert set(sign.get_config()) == {"name", "trainable"}


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="Expected `beta` > 0. Received: beta=0"):
        kc.SwishSignActivation(0)
    with pytest.raises(TypeError, match="bits"):
        kc.SteSignActivation(bits=2)
