from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.convert.final_grid import final_grid


def test_two_bits_literal() -> None:
    x = np.array([-0.4, 0.0, 0.1, 0.2, 0.49, 0.51, 0.8, 0.9, 1.0, 7.0], np.float32)
    third = [0, 0, 0, 1, 1, 2, 2, 3, 3, 3]
    for training in (False, True):
        found = np.array(kc.DoReFaActivation(2)(x, training=training))
        np.testing.assert_allclose(found, np.array(third) / 3, rtol=1e-6)


@pytest.mark.parametrize("bits", range(1, 9))
def test_equation_5_of_the_clipped_activation(bits: int) -> None:
    x = np.random.default_rng(bits).normal(0.5, 0.7, 30_000).astype(np.float32)
    top = 2**bits - 1
    expected = np.round(top * np.clip(x, 0, 1)) / top
    found = np.array(kc.DoReFaActivation(bits)(x, training=True))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len(np.unique(found)) == 2**bits
    np.testing.assert_array_equal(found, np.array(kc.DoReFaActivation(bits)(x)))


def test_gradient_is_one_from_zero_to_one() -> None:
    x = tf.constant([-0.1, 0.0, 0.4, 1.0, 1.1])
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(kc.DoReFaActivation(3)(x, training=True) * [1.0, 10.0, 100.0, 1e3, 1e4])
    assert tape.gradient(loss, x).numpy().tolist() == [0, 10, 100, 1000, 0]


def test_on_the_device_it_stands_at_the_top_of_int8() -> None:
    grid = final_grid(kc.DoReFaActivation(2), 8)
    assert grid.scale == pytest.approx(1 / 3)
    assert (grid.zero_point, grid.lowest) == (124, 124)


@pytest.mark.parametrize("bits", [0, 9, 16, 2.5, True])
def test_bad_bits(bits: object) -> None:
    with pytest.raises(ValueError, match="Expected `bits` out of .* Received: bits="):
        kc.DoReFaActivation(bits)
