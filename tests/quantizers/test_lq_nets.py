from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.quantizers.lq_nets import best_basis


def built(kernel: list, *arguments: object, axes: tuple = (1,), **more: object) -> tuple[kc.WeightTransform, tf.Tensor]:
    quantizer = kc.LQNets(*arguments, **more)
    weight = tf.constant(kernel, tf.float32)
    quantizer.prepare(weight.shape, axes)
    quantizer.initialize(weight)
    return quantizer, weight


def column(values: list) -> np.ndarray:
    return np.float32(values).reshape(-1, 1)


def test_forward_takes_the_nearest_level_literal() -> None:
    quantizer, weight = built(column([-9.0, -2.1, -1.9, -0.1, 0.1, 1.9, 2.1, 9.0]), 2)
    quantizer.basis.assign(np.float32([1, 2]).reshape(2, 1, 1))
    assert quantizer(weight).numpy().ravel().tolist() == [-3, -3, -1, -1, 1, 1, 3, 3]
    # The order of the basis and its signs do not matter: the levels are the same.
    quantizer.basis.assign(np.float32([-2, 1]).reshape(2, 1, 1))
    assert quantizer(weight).numpy().ravel().tolist() == [-3, -3, -1, -1, 1, 1, 3, 3]
    # Uneven levels -4, -2, 2, 4, thresholds -3, 0, 3.
    quantizer.basis.assign(np.float32([3, 1]).reshape(2, 1, 1))
    assert quantizer(weight).numpy().ravel().tolist() == [-4, -2, -2, -2, 2, 2, 2, 4]


def test_update_literal() -> None:
    """w = -3.4, -1, 1, 3.4, 3.4 at v = (1, 2): B B^T = [[5, 1], [1, 5]], B w = (8.2, 12.2), v* = (1.2, 2.2)."""
    quantizer, weight = built(column([-3.4, -1.0, 1.0, 3.4, 3.4]), 2)
    quantizer.basis.assign(np.float32([1, 2]).reshape(2, 1, 1))
    ((variable, new),) = quantizer.update(weight)
    assert variable is quantizer.basis
    np.testing.assert_allclose(np.ravel(new), [0.9 * 1 + 0.1 * 1.2, 0.9 * 2 + 0.1 * 2.2], rtol=1e-5)
    quick, _ = built(column([-3.4, -1.0, 1.0, 3.4, 3.4]), 2, momentum=0.0)
    quick.basis.assign(np.float32([1, 2]).reshape(2, 1, 1))
    np.testing.assert_allclose(np.ravel(quick.update(weight)[0][1]), [1.2, 2.2], rtol=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_best_basis_is_the_least_squares_solution(bits: int) -> None:
    kernel = np.random.default_rng(bits).normal(size=(3, 3, 40, 2)).astype(np.float32)
    basis = np.random.default_rng(9).uniform(0.2, 1.0, size=(bits, 1, 1, 1, 2)).astype(np.float32)
    found = best_basis((0, 1, 2))(tf.constant(kernel), tf.constant(basis)).numpy()
    codes = np.array(list(itertools.product((-1, 1), repeat=bits)))
    for channel in range(2):
        values = kernel[..., channel].ravel().astype(np.float64)
        levels = codes @ basis[:, 0, 0, 0, channel]
        chosen = codes[np.abs(values[:, None] - levels).argmin(axis=1)]
        expected = np.linalg.lstsq(chosen, values, rcond=None)[0]
        np.testing.assert_allclose(found[:, 0, 0, 0, channel], expected, rtol=2e-3, atol=1e-4)


def test_one_bit_is_the_mean_magnitude() -> None:
    quantizer, weight = built([[1.0, -8.0], [0.5, 2.0], [-0.5, 0.5]], 1)
    np.testing.assert_allclose(np.ravel(quantizer.basis), [2 / 3, 3.5], rtol=1e-5)
    np.testing.assert_allclose(quantizer(weight), [[2 / 3, -3.5], [2 / 3, 3.5], [-2 / 3, 3.5]], rtol=1e-5)


@pytest.mark.parametrize(("bits", "error"), [(1, 0.3634), (2, 0.1175), (3, 0.0345), (4, 0.0095)])
def test_begins_near_the_best_quantizer_of_normal_weights(bits: int, error: float) -> None:
    """Max (1960), table 1: least squared error of 2, 4, 8, 16 free levels for a unit normal."""
    kernel = np.random.default_rng(0).normal(size=(50_000, 1)).astype(np.float32)
    quantizer, weight = built(kernel, bits)
    found = float(np.square(quantizer(weight) - kernel).mean())
    assert 0.97 * error < found < 1.25 * error
    assert len(np.unique(quantizer(weight))) == 2**bits


def test_updates_follow_a_weight_that_grows() -> None:
    kernel = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
    quantizer, weight = built(kernel, 2)
    start = np.array(quantizer.basis)
    for _ in range(60):
        for variable, new in quantizer.update(2 * weight):
            variable.assign(new)
    np.testing.assert_allclose(np.array(quantizer.basis), 2 * start, rtol=0.05)


@pytest.mark.parametrize("bits", [1, 3])
def test_channels_of_zeros_or_of_one_value_stay_finite(bits: int) -> None:
    kernel = np.zeros((6, 3), np.float32)
    kernel[:, 1] = 0.7
    kernel[:, 2] = [1, -1, 2, -2, 1, -1]
    quantizer, weight = built(kernel, bits)
    for _ in range(5):
        for variable, new in quantizer.update(weight):
            variable.assign(new)
    y = quantizer(weight).numpy()
    assert np.isfinite(np.array(quantizer.basis)).all()
    np.testing.assert_allclose(y[:, 0], 0, atol=1e-6)
    np.testing.assert_allclose(y[:, 1], 0.7, rtol=1e-2)


def test_gradient_goes_straight_through() -> None:
    quantizer, weight = built([[1.0, -8.0], [0.4, 5.0]])
    upstream = np.float32([[1, 2], [3, 4]])
    with tf.GradientTape() as tape:
        tape.watch(weight)
        loss = tf.reduce_sum(quantizer(weight, training=True) * upstream)
    assert tape.gradient(loss, weight).numpy().tolist() == upstream.tolist()


def test_levels_are_free_and_one_basis_serves_the_tensor_where_told() -> None:
    quantizer, weight = built([[1.0, -8.0], [0.4, 5.0]], 2)
    assert (quantizer.promises, quantizer.number_of_clusters) == ({"channel_codebook"}, 4)
    assert quantizer.integer_weight(weight) is None
    assert quantizer.basis.shape == (2, 1, 2)
    quantizer, _ = built([[1.0, -8.0], [0.4, 5.0]], 2, per_channel=False)
    assert (quantizer.promises, quantizer.basis.shape) == ({"codebook"}, (2, 1, 1))


@pytest.mark.parametrize("bits", [0, 5, 2.0])
def test_bad_bits(bits: object) -> None:
    with pytest.raises(ValueError, match="Expected `bits` to be an integer from 1 to 4. Received: bits="):
        kc.LQNets(bits)


def test_bad_momentum() -> None:
    with pytest.raises(ValueError, match=r"Expected `momentum` in \[0, 1\). Received: momentum=1.0"):
        kc.LQNets(momentum=1.0)
