from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc
from keras_compress.quantizers.binary_connect import draw


def wrapped(kernel: np.ndarray, quantizer: kc.WeightTransform) -> kc.Compressed:
    layer = layers.Dense(kernel.shape[1], use_bias=False)
    layer.build((None, kernel.shape[0]))
    layer.kernel.assign(kernel)
    wrapper = kc.Compressed(layer, {"kernel": [quantizer]})
    wrapper.initialize(quantizer)
    return wrapper


def drawn(wrapper: kc.Compressed) -> np.ndarray:
    size = wrapper.latent("kernel").shape[0]
    return np.array(wrapper(np.eye(size, dtype=np.float32), training=True))


def test_probability_is_the_hard_sigmoid() -> None:
    """p = clip((w + 1) / 2, 0, 1), over 40,000 draws: 5 standard errors are 0.0125."""
    levels = np.float32([-3.0, -1.0, -0.5, 0.0, 0.6, 1.0, 2.0])
    kernel = np.tile(levels, (40_000, 1))
    quantizer = kc.BinaryConnect(seed=7)
    quantizer.prepare(kernel.shape, (1,))
    y = np.array(quantizer(kernel, training=True))
    assert set(np.unique(y)) == {-1.0, 1.0}
    frequency = (y == 1).mean(axis=0)
    np.testing.assert_allclose(frequency, [0, 0, 0.25, 0.5, 0.8, 1, 1], atol=0.0125)
    assert frequency[[0, 1, 5, 6]].tolist() == [0, 0, 1, 1]


def test_inference_takes_the_sign_as_training_does_where_told() -> None:
    kernel = np.float32([[-0.9, -0.0], [0.0, 0.2]])
    wrapper = wrapped(kernel, kc.BinaryConnect())
    assert np.array(wrapper.weight("kernel")).tolist() == [[-1, 1], [1, 1]]
    found = wrapper.transform_list[0].integer_weight(kernel)
    assert (found.integers.tolist(), found.scale.tolist(), found.bits) == ([[-1, 1], [1, 1]], [[1.0]], 2)
    certain = wrapped(kernel, kc.BinaryConnect(stochastic=False))
    for _ in range(3):
        assert drawn(certain).tolist() == [[-1, 1], [1, 1]]


@pytest.mark.parametrize("stochastic", [False, True])
def test_gradient_goes_straight_through(stochastic: bool) -> None:
    wrapper = wrapped(np.float32([[-2.0, -0.1], [0.4, 5.0]]), kc.BinaryConnect(stochastic))
    upstream = np.float32([[1, 2], [3, 4]])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(wrapper(np.eye(2, dtype=np.float32), training=True) * upstream)
    assert tape.gradient(loss, wrapper.latent("kernel").value).numpy().tolist() == upstream.tolist()


def test_draws_depend_on_step_seed_and_weight_only() -> None:
    kernel = np.random.default_rng(0).uniform(-0.5, 0.5, (16, 16)).astype(np.float32)
    first, second = (wrapped(kernel, kc.BinaryConnect(seed=3)) for _ in range(2))
    one, two = drawn(first), drawn(first)
    np.testing.assert_array_equal(drawn(second), one)
    np.testing.assert_array_equal(drawn(second), two)
    assert int(first.transform_list[0].step) == 2
    for other in (
        two,
        drawn(wrapped(kernel, kc.BinaryConnect(seed=4))),
        drawn(wrapped(kernel.T, kc.BinaryConnect(seed=3))),
    ):
        assert 0.3 < (other != one).mean() < 0.7


def test_goes_on_as_if_it_had_not_stopped(tmp_path) -> None:
    kernel = np.random.default_rng(0).uniform(-0.5, 0.5, (8, 8)).astype(np.float32)
    model = keras.Sequential([keras.Input((8,)), wrapped(kernel, kc.BinaryConnect())])
    x = np.eye(8, dtype=np.float32)
    model(x, training=True)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(np.array(model(x, training=True)), np.array(again(x, training=True)))


def test_frozen_stays_at_its_step() -> None:
    wrapper = wrapped(np.zeros((4, 4), np.float32), kc.BinaryConnect(trainable=False))
    np.testing.assert_array_equal(drawn(wrapper), drawn(wrapper))
    assert int(wrapper.transform_list[0].step) == 0


def test_draws_are_the_same_with_xla_and_without() -> None:
    weight, key = tf.zeros((33, 17)), tf.constant([2**61 + 5, 12], tf.int64)
    eager = draw(weight, key).numpy()
    np.testing.assert_array_equal(tf.function(draw)(weight, key).numpy(), eager)
    np.testing.assert_array_equal(tf.function(draw, jit_compile=True)(weight, key).numpy(), eager)
    assert 0.4 < (eager == 1).mean() < 0.6


@pytest.mark.parametrize("seed", [-1, 2**31, 1.0, True])
def test_bad_seed(seed: object) -> None:
    with pytest.raises(ValueError, match=f"from 0 to 2147483647. Received: seed={seed}"):
        kc.BinaryConnect(seed=seed)
