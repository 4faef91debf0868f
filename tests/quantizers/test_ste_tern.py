"""Ternary weights by a fixed threshold."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc


def test_forward_and_gradient_literal() -> None:
    made = kc.SteTern(0.3)
    made.prepare((2, 3), (1,))
    weight = tf.constant([[-1.5, -0.31, -0.3], [0.0, 0.3, 1.0]])
    with tf.GradientTape() as tape:
        tape.watch(weight)
        y = made(weight)
    upstream = tf.constant([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert y.numpy().tolist() == [[-1.0, -1.0, 0.0], [0.0, 0.0, 1.0]]
    assert tape.gradient(y, weight, upstream).numpy().tolist() == [[0.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    found = made.integer_weight(weight)
    assert (found.integers.tolist(), found.bits) == ([[-1, -1, 0], [0, 0, 1]], 2)
    np.testing.assert_array_equal(found.scale, [[1.0]])


@pytest.mark.parametrize("threshold", [-0.1, 1.0])
def test_threshold_out_of_range(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"Expected `threshold` in \[0, 1\). Received: threshold="):
        kc.SteTern(threshold)
