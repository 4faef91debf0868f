"""Weights and activations compute with one formula: against literals, and against each other."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.core import affine
from keras_compress.quantizers import formulas

VALUES = [-30.0, -1.5, -1.0, -0.3, -0.0, 0.0, 0.4, 1.0, 2.0]


def activation_gradient(quantizer: kc.ActivationQuantizer, values: list[float]) -> list[float]:
    point = kc.QuantizeActivation(quantizer)
    x = tf.constant([values])
    point.build(x.shape)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = point(x, training=True)
    return np.array(tape.gradient(y, x))[0].tolist()


def weight_gradient(quantizer: kc.WeightQuantizer, values: list[float]) -> list[float]:
    layer = kc.Compressed(keras.layers.Dense(1, use_bias=False), {"kernel": [quantizer]})
    layer.build((None, len(values)))
    layer.latent("kernel").assign(np.array(values, np.float32)[:, None])
    with tf.GradientTape() as tape:
        y = layer(tf.ones([1, len(values)]), training=True)
    return np.array(tape.gradient(y, layer.latent("kernel").value))[:, 0].tolist()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SteSign", [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]),
        ("ApproxSign", [0.0, 0.0, 0.0, 1.4, 2.0, 2.0, 1.2, 0.0, 0.0]),
    ],
)
def test_signs_of_weights_and_activations_have_one_slope(name: str, expected: list[float]) -> None:
    assert weight_gradient(getattr(kc, name)(), VALUES) == pytest.approx(expected)
    assert activation_gradient(getattr(kc, f"{name}Activation")(), VALUES) == pytest.approx(expected)


@pytest.mark.parametrize("beta", [5.0, 0.5])
def test_swish_sign_has_one_slope_and_loses_nothing_far_out(beta: float) -> None:
    expected = [beta * (2 - beta * v * math.tanh(beta * v / 2)) / (1 + math.cosh(beta * v)) for v in VALUES]
    for found in (
        weight_gradient(kc.SwishSign(beta), VALUES),
        activation_gradient(kc.SwishSignActivation(beta), VALUES),
    ):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-30)


def test_lsq_gradients_are_those_of_the_paper() -> None:
    """Esser et al., equation 3, of two signed bits (-2 .. 1) and of two unsigned ones (0 .. 3)."""
    upstream = tf.constant([1.0, 1.0, 1.0, 2.0, 1.0])
    values = tf.constant([-1.2, -0.3, 0.1, 0.2, 0.9])
    signed, unsigned = affine.QuantSpec(bits=2, narrow_range=False), affine.QuantSpec(bits=2, narrow_range=False)
    of_values, of_step = formulas.lsq_gradients(upstream, values, tf.constant(0.5), signed)
    # In steps: -2.4, -0.6, 0.2, 0.4, 1.8.
    np.testing.assert_allclose(of_values, [0.0, 1.0, 1.0, 2.0, 0.0])
    np.testing.assert_allclose(of_step, [-2.0, -0.4, -0.2, -0.8, 1.0], rtol=1e-5)
    of_values, of_step = formulas.lsq_gradients(upstream, values, tf.constant(0.5), unsigned, zero_point=-2)
    np.testing.assert_allclose(of_values, [0.0, 0.0, 1.0, 2.0, 1.0])
    np.testing.assert_allclose(of_step, [0.0, 0.0, -0.2, -0.8, 0.2], rtol=1e-5, atol=1e-7)


def test_the_first_step_is_twice_the_mean_over_the_root_of_the_highest() -> None:
    assert float(formulas.lsq_first_step(tf.constant(0.7), 7)) == pytest.approx(2 * 0.7 / 7**0.5)


def test_pact_gradients_are_those_of_the_paper_and_their_mirror_image() -> None:
    """Choi et al., equations 1 to 3: the range [0, alpha) passes to values, all from alpha on to alpha."""
    upstream, nan = tf.constant([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]), math.nan
    values = tf.constant([-2.0, -0.5, 0.0, 0.4, 0.5, 3.0, nan])
    of_values, of_clip = formulas.pact_gradients(upstream, values, tf.constant(0.5), signed=False)
    np.testing.assert_array_equal(of_values, [0.0, 0.0, 3.0, 4.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(of_clip, [0.0, 0.0, 0.0, 0.0, 5.0, 6.0, 0.0])
    of_values, of_clip = formulas.pact_gradients(upstream, values, tf.constant(0.5), signed=True)
    np.testing.assert_array_equal(of_values, [0.0, 0.0, 3.0, 4.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(of_clip, [-1.0, -2.0, 0.0, 0.0, 5.0, 6.0, 0.0])


@pytest.mark.parametrize("count", [6, tf.constant(6.0)])
def test_the_gradient_of_a_step_is_divided_by_the_root_of_count_times_highest(count: object) -> None:
    assert float(formulas.lsq_gradient_factor(count, 7)) == pytest.approx(0.15430335)
