from __future__ import annotations

import numpy as np
import pytest

import keras_compress as kc
from keras_compress.quantizers.model import weight_transforms


def test_two_bits_literal(prepare) -> None:
    quantizer = kc.AsymmetricQuantizer(2)
    # Steps of 1 from -1 to 2; from 0 (0.4 moves to it) to 3; from 0, which belongs to the range; of 0.5 from -1 to 0.5.
    kernel = [[-1.0, -0.4, 1.5, -1.0], [2.0, 2.6, 3.0, 0.5], [0.4, 1.6, 2.4, -0.6], [-0.6, 0.0, 0.4, 0.2]]
    weight = prepare(quantizer, kernel)
    assert quantizer(weight).numpy().T.tolist() == [[-1, 2, 0, -1], [0, 3, 2, 0], [2, 3, 2, 0], [-1, 0.5, -0.5, 0]]


def test_one_range_for_the_tensor(prepare) -> None:
    quantizer = kc.AsymmetricQuantizer(2, per_channel=False)
    weight = prepare(quantizer, [[-1.0, 0.3], [2.0, 0.7]])
    assert quantizer(weight).numpy().tolist() == [[-1, 0], [2, 1]]


def test_one_bit_keeps_zero_and_the_longer_side(prepare) -> None:
    quantizer = kc.AsymmetricQuantizer(1)
    weight = prepare(quantizer, [[-1.0, 1.0], [0.3, 0.4], [3.0, -3.0]])
    assert quantizer(weight).numpy().tolist() == [[0, 0], [0, 0], [4, -4]]


@pytest.mark.parametrize("bits", range(1, 9))
def test_equals_the_formula(bits: int, prepare) -> None:
    kernel = np.random.default_rng(bits).normal(0.3, 1.0, size=(500, 2)).astype(np.float32)
    quantizer = kc.AsymmetricQuantizer(bits)
    found = quantizer(prepare(quantizer, kernel)).numpy()
    for column, quantized in zip(kernel.T.astype(float), found.T, strict=True):
        low, high, count = min(column.min(), 0), max(column.max(), 0), 2**bits - 1
        scale = (high - low) / count
        zero = round(-low / scale)
        expected = [(min(max(round(w / scale) + zero, 0), count) - zero) * scale for w in column]
        np.testing.assert_allclose(quantized, expected, atol=1e-5)
        assert 2 <= len(np.unique(quantized)) <= 2**bits
        assert np.abs(quantized - column).max() <= scale * 1.001


def test_gradient_zeros_and_no_integers(prepare, gradients) -> None:
    quantizer = kc.AsymmetricQuantizer(3)
    weight = prepare(quantizer, [[0.0, -1.0], [0.0, 0.0], [0.0, 2.2]])
    assert quantizer(weight).numpy()[:, 0].tolist() == [0, 0, 0]
    assert quantizer(weight).numpy()[1, 1] == 0
    assert gradients(quantizer, weight, [[1, 2], [3, 4], [5, 6]])[0].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert quantizer.integer_weight(weight) is None
    assert quantizer.promises == {"channel_codebook"}
    assert kc.AsymmetricQuantizer(3, per_channel=False).promises == {"codebook"}


def test_no_grid_behind_it() -> None:
    """Float modes only: the levels that int8 would make of these are other ones."""
    assert [type(t) for t in weight_transforms(kc.AsymmetricQuantizer())] == [kc.AsymmetricQuantizer]
    assert "zero point 0" in kc.AsymmetricQuantizer.float_only


def test_bad_bits() -> None:
    with pytest.raises(ValueError, match="Expected `bits` to be an integer from 1 to 8. Received: bits=9"):
        kc.AsymmetricQuantizer(9)
