from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.convert.final_grid import final_grid
from keras_compress.quantizers.hwgq import half_wave_step


@pytest.mark.parametrize(("bits", "published"), [(1, 0.799), (2, 0.538), (3, 0.3217), (4, 0.185)])
def test_steps_are_those_of_the_authors(bits: int, published: float) -> None:
    assert half_wave_step(bits) == pytest.approx(published, abs=0.0013)


def test_one_bit_is_the_mean_of_the_positive_half() -> None:
    assert half_wave_step(1) == pytest.approx((2 / np.pi) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("bits", range(2, 9))
def test_no_other_step_is_better_on_a_sampled_half_normal(bits: int) -> None:
    """The squared error on a fine grid of x, weighted by the density."""
    x = np.linspace(0, 8, 80_001)
    weight = np.exp(-0.5 * x * x)
    top = 2**bits - 1

    def error(step: float) -> float:
        levels = np.clip(np.round(x / step), 1, top) * step
        return float((weight * (x - levels) ** 2).sum())

    step = half_wave_step(bits)
    assert error(step) < min(error(step * 0.99), error(step * 1.01))
    assert error(step) < min(error(step * factor) for factor in (0.5, 0.7, 1.5, 2.0))


def test_two_bits_literal() -> None:
    step = 0.538812
    x = np.array([-2.0, 0.0, 0.26, 0.28, 0.80, 0.82, 1.34, 1.36, 5.0], np.float32)
    for training in (False, True):
        found = np.array(kc.HalfWaveGaussian(2)(x, training=training))
        np.testing.assert_allclose(found, step * np.array([0, 0, 0, 1, 1, 2, 2, 3, 3]), rtol=1e-6)


@pytest.mark.parametrize("bits", [1, 5, 8])
def test_training_and_inference_round_to_the_same_bits(bits: int) -> None:
    x = np.random.default_rng(0).normal(0, 2, 50_000).astype(np.float32)
    found = np.array(kc.HalfWaveGaussian(bits)(x, training=True))
    np.testing.assert_array_equal(found, np.array(kc.HalfWaveGaussian(bits)(x)))
    assert len(np.unique(found)) == 2**bits


def test_gradient_is_that_of_the_clipped_relu() -> None:
    highest = np.float32(3) * np.float32(0.538812)
    x = tf.constant([-0.1, 0.0, 0.01, 1.0, highest, highest + 0.01])
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(kc.HalfWaveGaussian(2)(x, training=True) * [1.0, 10.0, 100.0, 1e3, 1e4, 1e5])
    assert tape.gradient(loss, x).numpy().tolist() == [0, 0, 100, 1000, 10_000, 0]


def test_on_the_device_it_stands_at_the_top_of_int8() -> None:
    grid = final_grid(kc.HalfWaveGaussian(3), 8)
    assert grid.scale == pytest.approx(0.321729, rel=1e-5)
    assert (grid.zero_point, grid.lowest) == (120, 120)


@pytest.mark.parametrize("bits", [0, 9, 16])
def test_bad_bits(bits: int) -> None:
    with pytest.raises(ValueError, match="Expected `bits` out of .* Received: bits="):
        kc.HalfWaveGaussian(bits)
