from __future__ import annotations

import math

import numpy as np
import pytest

import keras_compress as kc
from keras_compress.quantizers.model import weight_transforms


def column_with_tanh(values: list[float]) -> np.ndarray:
    return np.array([[math.atanh(value)] for value in values], np.float32)


def test_two_bits_literal(prepare) -> None:
    quantizer = kc.DoReFa(2)
    # tanh(w) / 1.6 + 0.5 = 1, 0.75, 0.5, 0.375, 0.125, 0; times 3, rounded: 3, 2, 2 (a tie, to even), 1, 0, 0.
    weight = prepare(quantizer, column_with_tanh([0.8, 0.4, 0.0, -0.2, -0.6, -0.8]))
    found = quantizer.integer_weight(weight)
    assert found.integers.ravel().tolist() == [3, 1, 1, -1, -3, -3]
    assert found.bits == 3
    assert found.scale.tolist() == [[np.float32(1 / 3)]]
    np.testing.assert_allclose(quantizer(weight).numpy().ravel(), [1, 1 / 3, 1 / 3, -1 / 3, -1, -1], rtol=1e-6)


@pytest.mark.parametrize("bits", range(2, 9))
def test_equals_the_equation(bits: int, prepare) -> None:
    """Equation 9, written out."""
    kernel = np.random.default_rng(bits).normal(size=(5, 4)).astype(np.float32)
    quantizer = kc.DoReFa(bits)
    weight = prepare(quantizer, kernel)
    n, largest = 2**bits - 1, max(abs(math.tanh(w)) for w in kernel.ravel())
    expected = [2 * (round(n * (math.tanh(w) / (2 * largest) + 0.5)) / n) - 1 for w in kernel.ravel()]
    np.testing.assert_allclose(quantizer(weight).numpy().ravel(), expected, atol=1e-6)
    found = quantizer.integer_weight(weight)
    if bits == 8:
        assert found is None
        assert quantizer.promises == {"codebook"}
        assert quantizer.number_of_clusters == 256
    else:
        assert (found.integers % 2 == 1).all()
        assert np.abs(found.integers).max() == n
        np.testing.assert_array_equal(found.floats(), quantizer(weight))


def test_one_bit_literal(prepare, gradients) -> None:
    """Equation 8: the mean is of the tensor, not of the channels; the sign of 0 is 1."""
    quantizer = kc.DoReFa(1)
    weight = prepare(quantizer, [[1.0, -2.0], [0.0, 5.0], [-0.5, 0.5]])
    assert quantizer(weight).numpy().tolist() == [[1.5, -1.5], [1.5, 1.5], [-1.5, 1.5]]
    found = quantizer.integer_weight(weight)
    assert (found.integers.tolist(), found.scale.tolist(), found.bits) == ([[1, -1], [1, 1], [-1, 1]], [[1.5]], 2)
    assert gradients(quantizer, weight, [[1, 2], [3, 4], [5, 6]])[0].tolist() == [[1, 2], [3, 4], [5, 6]]


def test_gradient_is_that_of_tanh_over_its_maximum(prepare, gradients) -> None:
    quantizer = kc.DoReFa(3)
    weight = prepare(quantizer, column_with_tanh([0.8, 0.5, 0.0, -0.6]))
    (found,) = gradients(quantizer, weight, [[1], [1], [1], [10]])
    expected = [(1 - 0.64) / 0.8, (1 - 0.25) / 0.8, 1 / 0.8, 10 * (1 - 0.36) / 0.8]
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5)


def test_weights_of_zeros_give_numbers(prepare, gradients) -> None:
    for bits, expected in ((1, 0.0), (3, 1 / 7)):
        quantizer = kc.DoReFa(bits)
        weight = prepare(quantizer, np.zeros((2, 2)))
        np.testing.assert_allclose(quantizer(weight), np.full((2, 2), expected), rtol=1e-6)
        assert (quantizer.integer_weight(weight).scale > 0).all()
        assert gradients(quantizer, weight, np.ones((2, 2)))[0].tolist() == [[1, 1], [1, 1]]


def test_eight_bits_have_the_grid_behind_them() -> None:
    assert [type(t) for t in weight_transforms(kc.DoReFa(8))] == [kc.DoReFa, kc.UniformQuantizer]
    assert [type(t) for t in weight_transforms("dorefa")] == [kc.DoReFa]


def test_no_zero_level_so_not_after_a_pruner() -> None:
    assert "zeros" not in kc.DoReFa.preserves


@pytest.mark.parametrize("bits", [0, 9, 2.0])
def test_bad_bits(bits: object) -> None:
    with pytest.raises(ValueError, match="Expected `bits` to be an integer from 1 to 8. Received: bits="):
        kc.DoReFa(bits)
