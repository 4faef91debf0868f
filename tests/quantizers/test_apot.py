from __future__ import annotations

import numpy as np
import pytest

import keras_compress as kc
from keras_compress.quantizers.apot import magnitudes


def sums(*terms: list[int]) -> list[int]:
    found = {0}
    for term in terms:
        found = {old + new for old in found for new in term}
    return sorted(found)


LEVELS = {
    2: [0, 1],
    3: [0, 1, 2, 4],
    4: [0, 1, 2, 3, 4, 6, 8, 10],
    5: sums([0, 32, 8, 2], [0, 16, 4, 1]),
    6: sums([0, 64, 16, 2], [0, 32, 8, 1], [0, 4]),
    7: sums([0, 256, 32, 4], [0, 128, 16, 2], [0, 64, 8, 1]),
}


@pytest.mark.parametrize("bits", LEVELS)
def test_level_sets(bits: int) -> None:
    assert list(magnitudes(bits)) == LEVELS[bits]
    assert len(LEVELS[bits]) == 2 ** (bits - 1)
    assert LEVELS[bits][-1] == {2: 1, 3: 4, 4: 10, 5: 48, 6: 100, 7: 448}[bits]


def test_even_code_bits_are_the_papers_equation() -> None:
    """gamma times the sum over i < n of p_i in {0, 2^-i, 2^-(i+n), 2^-(i+2n)}, for 2n bits behind the sign."""
    for terms in (1, 2, 3):
        p = [[0.0, *(2.0 ** -(i + j * terms) for j in range(3))] for i in range(terms)]
        found = {0.0}
        for choices in p:
            found = {old + new for old in found for new in choices}
        scaled = np.array(magnitudes(2 * terms + 1)) / magnitudes(2 * terms + 1)[-1]
        np.testing.assert_allclose(scaled, np.array(sorted(found)) / max(found))


def test_forward_and_gradients_literal(prepare, gradients) -> None:
    """alpha = 4, levels 0, 1, 2, 4; a tie goes to the lower one."""
    quantizer = kc.APoT(3)
    weight = prepare(quantizer, [[0.5], [0.51], [2.9], [3.1], [-9.0], [-1.4], [0.0]])
    quantizer.learned.assign([[4.0]])
    assert quantizer(weight).numpy().ravel().tolist() == [0, 1, 2, 4, -4, -1, 0]
    found = quantizer.integer_weight(weight)
    assert (found.integers.ravel().tolist(), found.scale.tolist(), found.bits) == ([0, 1, 2, 4, -4, -1, 0], [[1.0]], 4)
    of_weight, of_alpha = gradients(quantizer, weight, [[1], [2], [3], [4], [5], [6], [7]])
    assert of_weight.ravel().tolist() == [1, 2, 3, 4, 0, 6, 7]
    # Inside, the projection of w / alpha minus w / alpha; outside, the sign.
    expected = (1 * -0.5 + 2 * 0.49 + 3 * -0.9 + 4 * 0.9 + 6 * 0.4) / 4 + 5 * -1
    np.testing.assert_allclose(of_alpha, [[expected]], rtol=1e-5)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", LEVELS)
def test_equals_the_nearest_level(bits: int, per_channel: bool, prepare) -> None:
    kernel = np.random.default_rng(bits).normal(size=(200, 3)).astype(np.float32)
    quantizer = kc.APoT(bits, per_channel=per_channel)
    weight = prepare(quantizer, kernel)
    alpha = np.array(quantizer.learned, np.float64)
    assert alpha.shape == ((1, 3) if per_channel else (1, 1))
    levels = alpha[..., None] * np.array(LEVELS[bits]) / LEVELS[bits][-1]
    nearest = np.abs(np.abs(kernel)[..., None] - levels).argmin(axis=-1)
    expected = (
        np.sign(kernel)
        * np.take_along_axis(np.broadcast_to(levels, (200, 3, levels.shape[-1])), nearest[..., None], -1)[..., 0]
    )
    np.testing.assert_allclose(quantizer(weight), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("bits", "storage"), [(2, 2), (3, 4), (4, 5), (5, 7), (6, 8), (7, 10)])
def test_storage(bits: int, storage: int, prepare) -> None:
    quantizer = kc.APoT(bits)
    weight = prepare(quantizer, np.linspace(-1, 1, 2000).reshape(-1, 1))
    assert quantizer.storage_bits == storage
    assert len(np.unique(quantizer(weight))) == 2**bits - 1
    found = quantizer.integer_weight(weight)
    if bits == 7:
        assert found is None
        assert quantizer.promises == {"codebook"}
    else:
        assert sorted(set(np.abs(found.integers).ravel())) == LEVELS[bits]
        np.testing.assert_array_equal(found.floats(), quantizer(weight))


def test_an_alpha_below_zero_still_computes_and_comes_back(prepare, gradients) -> None:
    quantizer = kc.APoT(4)
    weight = prepare(quantizer, [[1.0], [-1.0], [0.0]])
    quantizer.learned.assign([[-1.0]])
    np.testing.assert_allclose(quantizer(weight), [[1e-8], [-1e-8], [0]], rtol=1e-6)
    assert gradients(quantizer, weight, [[-1], [2], [5]])[1].tolist() == [[-3]]


@pytest.mark.parametrize("bits", [1, 8])
def test_bad_bits(bits: int) -> None:
    with pytest.raises(ValueError, match=f"Expected `bits` to be an integer from 2 to 7. Received: bits={bits}"):
        kc.APoT(bits)
