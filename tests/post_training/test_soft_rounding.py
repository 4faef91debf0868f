from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from keras_compress.post_training.soft_rounding import SoftRounding, annealed, inverse, rectified_sigmoid, regulariser


def h(value: float) -> float:
    """Equation 23 of the paper, zeta = 1.1, gamma = -0.1."""
    return min(max((1.1 - -0.1) / (1 + math.exp(-value)) - 0.1, 0.0), 1.0)


def test_the_rectified_sigmoid_is_the_papers() -> None:
    values = [-5.0, -2.0, -0.3, 0.0, 1.0, 2.4, 5.0]
    np.testing.assert_allclose(rectified_sigmoid(tf.constant(values)), [h(v) for v in values], atol=1e-6)
    assert float(rectified_sigmoid(tf.constant(2.5))) == 1.0


def test_variables_begin_where_the_weight_is() -> None:
    shares = np.array([0.0, 0.1, 0.5, 0.999])
    np.testing.assert_allclose([h(v) for v in inverse(shares)], shares, atol=1e-12)
    weight = np.array([[0.74, -0.26], [0.11, 0.9]], np.float32)
    soft = SoftRounding(weight, np.float32(0.25), (-8, 7))
    np.testing.assert_allclose(soft.weight(), weight, atol=1e-6)
    assert soft.integers().tolist() == [[3, -1], [0, 4]]


def test_the_regulariser_is_the_papers() -> None:
    """1 - |2 h - 1|^beta of 0.75 for beta 2 is 0.75, for beta 20 1 - 0.5^20."""
    assert float(regulariser(tf.constant([0.75]), tf.constant(2.0))) == pytest.approx(0.75)
    assert float(regulariser(tf.constant([0.75, 1.0]), tf.constant(20.0))) == pytest.approx(1 - 0.5**20)


def test_beta_is_annealed_from_20_to_2() -> None:
    found = [annealed(step / 100) for step in range(101)]
    assert found[:21] == [20.0] * 21
    assert found[-1] == pytest.approx(2.0)
    assert found[60] == pytest.approx(11.0)
    assert all(a >= b for a, b in zip(found, found[1:]))


def test_what_is_clipped_and_what_is_zero() -> None:
    """12 steps with a highest integer of 7; a pruned weight stays 0 however far up its variable goes."""
    soft = SoftRounding(np.array([12.0, 0.0], np.float32), np.float32(1.0), (-8, 7))
    soft.variable.assign([5.0, 5.0])
    assert soft.weight().numpy().tolist() == [7.0, 0.0]
    assert soft.integers().tolist() == [7.0, 0.0]
