from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import keras_compress as kc


def nearest_exponent(value: float) -> int:
    """round(log2(value)) without a logarithm: 2^e with 2^(2e-1) < value^2 < 2^(2e+1)."""
    square, exponent = Fraction(value) ** 2, 0
    while square > Fraction(2) ** (2 * exponent + 1):
        exponent += 1
    while square < Fraction(2) ** (2 * exponent - 1):
        exponent -= 1
    return exponent


def test_three_bits_literal(prepare) -> None:
    """Exponents 1, 2, 3. Middles are 1.414, 2.828 and 5.657: in the logarithm, not 3 and 6."""
    quantizer = kc.Log2(3)
    kernel = [8.0, 5.7, 5.6, 2.9, 2.8, 1.5, 1.42, 1.41, -3.0, 0.0]
    weight = prepare(quantizer, np.reshape(kernel, (-1, 1)))
    assert quantizer(weight).numpy().ravel().tolist() == [8, 8, 4, 4, 2, 2, 2, 0, -4, 0]
    found = quantizer.integer_weight(weight)
    assert found.integers.ravel().tolist() == [4, 4, 2, 2, 1, 1, 1, 0, -2, 0]
    assert (found.scale.tolist(), found.bits) == ([[2.0]], 4)


def test_the_range_follows_the_largest_magnitude_rounded(prepare) -> None:
    quantizer = kc.Log2(2)  # one exponent
    weight = prepare(quantizer, [[5.7, 5.6, 0.4], [-2.9, -2.9, -0.1]])
    assert quantizer(weight).numpy().tolist() == [[8, 4, 0.5], [0, -4, 0]]
    quantizer = kc.Log2(2, per_channel=False)
    weight = prepare(quantizer, [[5.7, 5.6, 0.4], [-2.9, -2.9, -0.1]])
    assert quantizer(weight).numpy().tolist() == [[8, 0, 0], [0, 0, 0]]


def test_exact_beside_the_middle(prepare) -> None:
    """The float32 neighbours of 2^(e + 1/2), where a logarithm errs."""
    middles = np.float32(2.0 ** (np.arange(-6, 0) + 0.5))
    kernel = np.concatenate([middles, np.nextafter(middles, np.float32(9)), np.nextafter(middles, np.float32(0)), [1]])
    quantizer = kc.Log2(5, per_channel=False)
    weight = prepare(quantizer, kernel.reshape(-1, 1))
    expected = [2.0 ** nearest_exponent(float(value)) for value in kernel.astype(np.float32)]
    assert quantizer(weight).numpy().ravel().tolist() == expected
    assert len(set(expected)) == 7


@pytest.mark.parametrize("bits", range(2, 9))
def test_equals_the_formula(bits: int, prepare) -> None:
    generator = np.random.default_rng(bits)
    kernel = (generator.normal(size=60) * 2.0 ** generator.integers(-60, 3, 60)).astype(np.float32)
    quantizer = kc.Log2(bits)
    weight = prepare(quantizer, kernel.reshape(-1, 1))
    exponents = [nearest_exponent(abs(float(value))) for value in kernel]
    lowest = max(exponents) - (2 ** (bits - 1) - 1) + 1
    expected = [float(np.sign(w)) * 2.0**e if e >= lowest else 0.0 for w, e in zip(kernel, exponents, strict=True)]
    assert quantizer(weight).numpy().ravel().tolist() == expected
    assert len(np.unique(quantizer(weight))) <= quantizer.number_of_clusters


def test_eight_bits_stay_inside_float32(prepare) -> None:
    """127 exponents from 2^2 down would end at 2^-124; from 2^-20 down they end at 2^-126, not at 2^-146."""
    kernel = np.float32([[2.0**2, 2.0**-20], [2.0**-124, 2.0**-126], [-(2.0**-125), -(2.0**-127)], [0, 2.0**-30]])
    quantizer = kc.Log2(8)
    weight = prepare(quantizer, kernel)
    expected = [[2.0**2, 2.0**-20], [2.0**-124, 2.0**-126], [0, 0], [0, 2.0**-30]]
    assert quantizer(weight).numpy().tolist() == expected


@pytest.mark.parametrize(("bits", "storage"), [(2, 2), (3, 4), (4, 8), (5, 16), (8, 128)])
def test_storage(bits: int, storage: int, prepare) -> None:
    quantizer = kc.Log2(bits)
    weight = prepare(quantizer, 2.0 ** -np.arange(20.0).reshape(-1, 1))
    assert quantizer.storage_bits == storage
    found = quantizer.integer_weight(weight)
    if bits > 4:
        assert found is None
        assert quantizer.promises == {"channel_codebook"}
    else:
        assert found.integers.max() == {2: 1, 3: 4, 4: 64}[bits]
        np.testing.assert_array_equal(found.floats(), quantizer(weight))


def test_gradient_and_zeros(prepare, gradients) -> None:
    quantizer = kc.Log2(4)
    weight = prepare(quantizer, [[0.0, 0.7], [0.0, 100.0]])
    found = quantizer.integer_weight(weight)
    assert found.integers.tolist() == [[0, 0], [0, 64]]
    assert found.scale.tolist() == [[2.0, 2.0]]  # a channel of zeros takes the largest scale
    assert gradients(quantizer, weight, [[1, 2], [3, 4]])[0].tolist() == [[1, 2], [3, 4]]
    quantizer = kc.Log2(4)
    weight = prepare(quantizer, np.zeros((2, 2)))
    assert quantizer(weight).numpy().tolist() == [[0, 0], [0, 0]]
    assert quantizer.integer_weight(weight).scale.tolist() == [[1.0, 1.0]]


def test_bad_bits() -> None:
    with pytest.raises(ValueError, match="Expected `bits` to be an integer from 2 to 8. Received: bits=1"):
        kc.Log2(1)
