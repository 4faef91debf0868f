from __future__ import annotations

import numpy as np
import pytest

import keras_compress as kc


def test_forward_and_gradients_literal(prepare, gradients) -> None:
    """alpha = 1.5, three steps of 0.5 on each side: w / s = -4, -3, -1.2, 0.4, 0.6, 2.8, 3.2."""
    quantizer = kc.LearnedClip(3)
    weight = prepare(quantizer, [[-2.0], [-1.5], [-0.6], [0.2], [0.3], [1.4], [1.6]])
    quantizer.learned.assign([[1.5]])
    assert quantizer(weight).numpy().ravel().tolist() == [-1.5, -1.5, -0.5, 0, 0.5, 1.5, 1.5]
    found = quantizer.integer_weight(weight)
    assert (found.integers.ravel().tolist(), found.scale.tolist(), found.bits) == ([-3, -3, -1, 0, 1, 3, 3], [[0.5]], 3)
    of_weight, of_alpha = gradients(quantizer, weight, [[1], [2], [4], [8], [16], [32], [64]])
    assert of_weight.ravel().tolist() == [0, 0, 4, 8, 16, 32, 0]
    assert of_alpha.tolist() == [[-1 - 2 + 64]]


def test_an_alpha_for_each_channel(prepare, gradients) -> None:
    quantizer = kc.LearnedClip(2, per_channel=True)
    weight = prepare(quantizer, [[3.0, 0.6], [-0.4, -7.0]])
    quantizer.learned.assign([[2.0, 1.0]])
    assert quantizer(weight).numpy().tolist() == [[2, 1], [0, -1]]
    of_weight, of_alpha = gradients(quantizer, weight, [[1, 10], [100, 1000]])
    assert of_weight.tolist() == [[0, 10], [100, 0]]
    assert of_alpha.tolist() == [[1, -1000]]


def test_first_alpha_is_the_maximum_or_three_deviations(prepare) -> None:
    # Channels: sqrt(mean of squares) = 1, its triple over the maximum 1; sqrt(100 / 16) = 2.5, its triple under 10; 0.
    kernel = np.zeros((16, 3))
    kernel[:, 0] = [1, -1] * 8
    kernel[3, 1] = -10
    quantizer = kc.LearnedClip(4, per_channel=True)
    prepare(quantizer, kernel)
    np.testing.assert_allclose(quantizer.learned, [[1, 7.5, 7.5]], rtol=1e-6)
    quantizer = kc.LearnedClip(4)
    prepare(quantizer, kernel)
    np.testing.assert_allclose(quantizer.learned, [[3 * np.sqrt(116 / 48)]], rtol=1e-6)


def test_a_range_below_zero_still_computes_and_comes_back(prepare, gradients) -> None:
    quantizer = kc.LearnedClip(4)
    weight = prepare(quantizer, [[1.0], [-1.0], [0.0]])
    quantizer.learned.assign([[-1.0]])
    np.testing.assert_allclose(quantizer(weight), [[1e-8], [-1e-8], [0]], rtol=1e-6)
    assert gradients(quantizer, weight, [[-1], [2], [5]])[1].tolist() == [[-3]]


def test_bad_bits() -> None:
    with pytest.raises(ValueError, match="Expected `bits` to be an integer from 2 to 8. Received: bits=1"):
        kc.LearnedClip(1)
