from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc


def built(kernel: list, axes: tuple = (1,), **arguments: object) -> tuple[kc.WeightTransform, tf.Tensor]:
    quantizer = kc.BWN(**arguments)
    weight = tf.constant(kernel, tf.float32)
    quantizer.prepare(weight.shape, axes)
    return quantizer, weight


KERNEL = [[1.0, -8.0], [0.0, 2.0], [-0.5, 0.5], [-0.5, -1.5]]


def test_forward_is_the_sign_times_the_mean_magnitude() -> None:
    quantizer, weight = built(KERNEL)
    # alpha = (1 + 0 + 0.5 + 0.5) / 4 and (8 + 2 + 0.5 + 1.5) / 4; the sign of 0 is +.
    assert quantizer(weight).numpy().tolist() == [[0.5, -3], [0.5, 3], [-0.5, 3], [-0.5, -3]]
    found = quantizer.integer_weight(weight)
    assert found.integers.tolist() == [[1, -1], [1, 1], [-1, 1], [-1, -1]]
    assert (found.scale.tolist(), found.bits) == ([[0.5, 3.0]], 2)
    quantizer, weight = built(KERNEL, per_channel=False)
    assert np.unique(quantizer(weight)).tolist() == [-1.75, 1.75]


def test_alpha_of_a_conv_is_over_the_filter() -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 5)).astype(np.float32)
    quantizer, weight = built(kernel, axes=(3,))
    found = quantizer.integer_weight(weight)
    assert found.scale.shape == (1, 1, 1, 5)
    np.testing.assert_allclose(found.scale.ravel(), np.abs(kernel).sum(axis=(0, 1, 2)) / 18, rtol=1e-6)
    np.testing.assert_array_equal(found.floats(), quantizer(weight).numpy())


def test_alpha_is_the_one_of_least_squared_error() -> None:
    kernel = np.random.default_rng(1).normal(size=(20, 1)).astype(np.float32)
    quantizer, weight = built(kernel)
    error = float(np.square(quantizer(weight) - kernel).sum())
    for factor in (0.99, 1.01):
        assert np.square(factor * quantizer(weight) - kernel).sum() > error


def test_gradient_is_the_papers() -> None:
    """g (1/n + alpha [|w| <= 1])."""
    quantizer, weight = built(KERNEL)
    upstream = np.float32([[1, 1], [2, 2], [3, 3], [-1, -1]])
    with tf.GradientTape() as tape:
        tape.watch(weight)
        loss = tf.reduce_sum(quantizer(weight, training=True) * upstream)
    inside, outside = 0.25 + 0.5, 0.25
    expected = [[inside, outside], [2 * inside, 2 * outside], [3 * inside, 3 * (0.25 + 3)], [-inside, -outside]]
    np.testing.assert_allclose(tape.gradient(loss, weight), expected, rtol=1e-6)


def test_a_channel_of_zeros_stays_zero_with_a_scale() -> None:
    quantizer, weight = built([[0.0, 1.0], [0.0, -3.0]])
    found = quantizer.integer_weight(weight)
    assert (found.integers.tolist(), found.scale.tolist()) == ([[0, 1], [0, -1]], [[2.0, 2.0]])
    assert quantizer(weight).numpy().tolist() == [[0, 2], [0, -2]]
    quantizer, weight = built([[0.0], [0.0]])
    assert quantizer.integer_weight(weight).scale.tolist() == [[1.0]]


def test_has_no_argument_for_bits() -> None:
    assert set(kc.BWN().get_config()) == {"name", "trainable", "per_channel"}
    with pytest.raises(TypeError, match="bits"):
        kc.BWN(bits=2)
