"""Ranges of factors: by the error of what they are multiplied with."""

import math

import numpy as np
import pytest

from keras_compress.calibration.used import FactorRange


def range_of(factors, squares=None, low=0.0, **options):
    quantizer = FactorRange(**options)
    quantizer.observe(np.float32(factors), np.ones(len(factors)) if squares is None else np.float64(squares))
    quantizer.set_range(low, float(np.max(factors)))
    return quantizer.range()


def test_rows_of_zeros_do_not_count():
    # Rows of mean square 1, and three times as many of zeros, under epsilon = 1e-6.
    low, high = range_of([1.0] * 100 + [1000.0] * 300, [1.0] * 100 + [0.0] * 300)
    assert (low, high) == pytest.approx((0.0, 1.0), abs=0.1)


def test_few_rows_that_are_small_are_cut_where_that_costs_less():
    # One row in 10,000 at 8 times the factor: its error is 1e-4 * (1 - 1/8)^2 = 7.7e-5 cut to 1, the others' error
    # 64 / 255^2 / 12 = 8.2e-5 if it is kept. At 20 times it is 9e-5 against 5e-4, and one in 100 is kept.
    assert range_of([1.0] * 9999 + [20.0])[1] < 10
    assert range_of([1.0] * 99 + [20.0])[1] == pytest.approx(20, rel=0.1)


def test_what_is_less_than_half_a_step_of_the_mean_square_does_not_count():
    # 1 / 40^2 is less than a 510th, which is half a step where 1 is the largest; 1 / 20^2 is not.
    assert range_of([1.0] * 50 + [40.0] * 50)[1] < 1.1
    assert range_of([1.0] * 50 + [20.0] * 50)[1] > 19
    assert range_of([1.0] * 50 + [40.0] * 50, root=False)[1] > 38


def test_a_divisor_below_half_a_step_divides_by_the_end():
    # 1 / y of 1,000 is less than a 510th of the largest y: 0 for the device, whose quotients end at the end.
    assert range_of([1.0] * 50 + [1000.0] * 50, root=False)[1] < 10
    # Where x / y is nothing but that, the end is theirs.
    assert range_of([1.0] * 50 + [1000.0] * 50, [1e-6] * 50 + [1.0] * 50, root=False)[1] > 990


def test_where_nothing_counts_the_ends_are_the_measured_ones():
    assert range_of([1000.0] * 3, [0.0] * 3)[1] == 1000
    assert range_of([1.0] * 9 + [1000.0], bits=16)[1] == 1000


def test_both_signs():
    low, high = range_of([-2.0] * 50 + [1.0] * 50 + [math.inf], low=-2.0, root=False)
    assert low == -2
    assert high == pytest.approx(2, rel=0.1)
