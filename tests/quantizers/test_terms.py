from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.quantizers.terms import signed_digits


def terms_of(value: int) -> list[tuple[int, int]]:
    """`(exponent, digit)` of the canonical signed digits, by the division algorithm."""
    found, exponent, rest = [], 0, abs(value)
    while rest:
        if rest % 2:
            digit = 2 - rest % 4
            rest -= digit
            found.append((exponent, digit if value > 0 else -digit))
        rest //= 2
        exponent += 1
    return found


def term_quantized(values: list[int], terms: int) -> list[int]:
    """One group: all its terms by exponent, those of the first weights first."""
    listed = [(-exponent, place, digit) for place, v in enumerate(values) for exponent, digit in terms_of(v)]
    sums = [0] * len(values)
    for exponent, place, digit in sorted(listed)[:terms]:
        sums[place] += digit * 2**-exponent
    return [min(max(value, -127), 127) for value in sums]


def integers(prepare, column: list[float], *arguments: int) -> list[int]:
    """Integers of one channel; a second one, of 127s, keeps the step at 1."""
    quantizer = kc.TermQuantizer(*arguments, per_channel=False)
    weight = prepare(quantizer, np.stack([column, np.full(len(column), 127)], axis=1))
    found = quantizer.integer_weight(weight)
    np.testing.assert_allclose(found.scale, [[1.0]], rtol=1e-6)
    return found.integers[:, 0].tolist()


def test_terms_of_single_weights(prepare) -> None:
    """21 = 16 + 4 + 1, 23 = 32 - 8 - 1, 127 = 128 - 1: 128 alone saturates."""
    column = [21, -21, 23, 127, -127, 0, 1]
    assert integers(prepare, column, 3, 1) == [21, -21, 23, 127, -127, 0, 1]
    assert integers(prepare, column, 2, 1) == [20, -20, 24, 127, -127, 0, 1]
    assert integers(prepare, column, 1, 1) == [16, -16, 32, 127, -127, 0, 1]


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        (1, [0, 0, 8, 0]),
        (2, [4, 0, 8, 0]),  # the two fours are equal: the first stays
        (3, [4, 4, 8, 0]),
        (4, [4, 4, 6, 0]),
        (5, [5, 4, 6, 0]),  # likewise the ones
        (6, [5, 4, 6, 1]),
        (99, [5, 4, 6, 1]),
    ],
)
def test_one_group_of_four_with_ties(terms: int, expected: list[int], prepare) -> None:
    """5 = 4 + 1, 4 = 4, 6 = 8 - 2, 1 = 1."""
    assert integers(prepare, [5, 4, 6, 1], terms, 4) == expected


def test_the_last_group_may_be_short(prepare) -> None:
    assert integers(prepare, [64, 32, 3, 3, 7], 2, 2) == [64, 32, 4, 4, 7]
    assert integers(prepare, [64, 32, 3, 3, 7], 1, 3) == [64, 0, 0, 0, 8]
    assert integers(prepare, [64, 32, 3, 3, 7], 3, 1000) == [64, 32, 0, 0, 8]


@pytest.mark.parametrize(
    ("shape", "axes"), [((20, 6), (1,)), ((3, 3, 5, 4), (3,)), ((3, 3, 4, 2), (2, 3)), ((2, 3, 4, 5), (2,))]
)
@pytest.mark.parametrize(("terms", "group"), [(16, 8), (5, 7)])
def test_equals_the_algorithm_in_every_layout(shape: tuple, axes: tuple, terms: int, group: int, prepare) -> None:
    kernel = np.random.default_rng(terms).normal(size=shape).astype(np.float32)
    quantizer = kc.TermQuantizer(terms, group)
    weight = prepare(quantizer, kernel, axes)
    uniform = kc.UniformQuantizer(8)
    prepare(uniform, kernel, axes)
    before, after = uniform.integer_weight(weight), quantizer.integer_weight(weight)
    np.testing.assert_array_equal(after.scale, before.scale)
    np.testing.assert_array_equal(after.floats(), quantizer(weight))
    order = [*(axis for axis in range(len(shape)) if axis not in axes), *axes]
    channels = int(np.prod([shape[axis] for axis in axes]))
    rows = before.integers.transpose(order).reshape(-1, channels).T.astype(int).tolist()
    expected = [sum((term_quantized(r[i : i + group], terms) for i in range(0, len(r), group)), []) for r in rows]
    found = after.integers.transpose(order).reshape(-1, channels).T.astype(int).tolist()
    assert found == expected
    assert not np.array_equal(before.integers, after.integers)


def test_digits_of_every_magnitude() -> None:
    added, subtracted = signed_digits(tf.range(128))
    assert (added - subtracted).numpy().tolist() == list(range(128))
    digits = (added | subtracted).numpy()
    assert ((digits & digits >> 1) == 0).all()
    assert [bin(d).count("1") for d in digits] == [len(terms_of(v)) for v in range(128)]


def test_gradient_zeros_and_promises(prepare, gradients) -> None:
    quantizer = kc.TermQuantizer(1, 2)
    weight = prepare(quantizer, [[0.0, 1.0], [0.0, -0.6], [0.0, 0.0]])
    found = quantizer.integer_weight(weight)
    assert found.integers.tolist() == [[0, 127], [0, 0], [0, 0]]
    assert gradients(quantizer, weight, [[1, 2], [3, 4], [5, 6]])[0].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert (quantizer.promises, quantizer.preserves) == ({"grid"}, {"zeros"})


@pytest.mark.parametrize("arguments", [{"terms": 0}, {"group_size": 0}, {"terms": 2.0}, {"group_size": True}])
def test_bad_arguments(arguments: dict) -> None:
    key = next(iter(arguments))
    with pytest.raises(ValueError, match=f"Expected `{key}` to be an integer of 1 or more. Received: {key}="):
        kc.TermQuantizer(**arguments)
