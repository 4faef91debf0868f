"""Sums brought to the grid of the output as TFLite-Micro's kernels do it, worked out by hand."""

import numpy as np
import pytest
import tensorflow as tf

from keras_compress.convert.kernel_rounding import round_twice
from keras_compress.tflite.multiplier import multiplier_of


def rounded(sums: list[int], scale: float) -> list[int]:
    found = round_twice(np.array(sums), *multiplier_of(np.full(len(sums), scale)))
    assert found.dtype == tf.int64
    return found.numpy().tolist()


@pytest.mark.parametrize(
    ("scale", "factor", "exponent"),
    [(0.5, 2**30, 0), (0.25, 2**30, -1), (0.75, 3 * 2**29, 0), (1.0, 2**30, 1), (1 - 2.0**-40, 2**30, 1)],
)
def test_multipliers(scale: float, factor: int, exponent: int) -> None:
    found = multiplier_of(np.array([scale]))
    assert [int(each[0]) for each in found] == [factor, exponent]


def test_ties_of_the_high_product_go_upwards() -> None:
    # Halves: one rounding, and ties below zero go up too.
    assert rounded([1, -1, 3, -3, 2, -2], 0.5) == [1, 0, 2, -1, 1, -1]


def test_ties_of_the_shift_go_away_from_zero() -> None:
    # Quarters: halves first, upwards, then halves of these, away from zero: -5, -2.5, -2, -1, and -6, -3, -1.5, -2.
    assert rounded([1, 2, 3, 5, 6, 7], 0.25) == [1, 1, 1, 2, 2, 2]
    assert rounded([-1, -2, -3, -5, -6, -7], 0.25) == [0, -1, -1, -1, -2, -2]


def test_factors_of_one_and_more_shift_first() -> None:
    assert rounded([-7, 5], 1.0) == [-7, 5]
    assert rounded([-7, 5], 6.0) == [-42, 30]
