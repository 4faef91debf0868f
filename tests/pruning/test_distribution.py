from __future__ import annotations

import math

import numpy as np
import pytest

from keras_compress.pruning.distribution import highest, highest_of_all, kept_count, layer_sparsities

LENET_5 = [(5, 5, 1, 20), (5, 5, 20, 50), (800, 500), (500, 10)]


def kept(shapes: list[tuple[int, ...]], shares: list[float]) -> list[int]:
    return [round(math.prod(shape) * (1 - share)) for shape, share in zip(shapes, shares)]


def test_uniform() -> None:
    assert layer_sparsities(LENET_5, 0.9, "uniform") == [0.9] * 4
    assert layer_sparsities([], 0.9, "erk") == []


def test_erk_literal() -> None:
    """Two weights of 10 x 10 and 100 x 100: densities e * 20 / 100 and e * 200 / 10000, 1010 of 10100 kept.

    e = 1010 / 220 = 4.5909: 91.8 and 918.2.
    """
    assert kept([(10, 10), (100, 100)], layer_sparsities([(10, 10), (100, 100)], 0.9, "erk")) == [92, 918]


def test_erk_leaves_what_would_be_more_than_dense_dense() -> None:
    """At 0.5, e = 5050 / 220 gives the first 459 of its 100: dense, and 4950 stay in the second."""
    assert layer_sparsities([(10, 10), (100, 100)], 0.5, "erk") == [0.0, 1 - 4950 / 10000]
    shares = layer_sparsities(LENET_5, 0.9, "erk")
    # By hand: 430500 weights, 43050 kept. e = 43050 / (31 + 80 + 1300 + 510) = 22.41: the first (500 < 694.7) is
    # dense. e = 42550 / 1890 = 22.513: 1801, 29267.2, 11481.7, of which the last has 5000: dense.
    # e = 37550 / 1380 = 27.21: 2176.8 and 35373.2.
    assert kept(LENET_5, shares) == [500, 2177, 35373, 5000]


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.77, 0.95, 0.999])
def test_erk_keeps_the_total(sparsity: float) -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        shapes = [tuple(random.integers(1, 40, random.integers(1, 5)).tolist()) for _ in range(random.integers(1, 9))]
        shares = layer_sparsities(shapes, sparsity, "erk")
        total = round((1 - sparsity) * sum(map(math.prod, shapes)))
        found = kept(shapes, shares)
        assert min(found) >= 1
        assert all(0 <= share < 1 for share in shares)
        # One at least stays in each.
        assert abs(sum(found) - total) <= 1 or (sum(found) > total and 1 in found)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, "0.5", True, math.nan, None])
def test_bad_sparsity(sparsity) -> None:
    with pytest.raises(ValueError, match=r"Expected `sparsity` as a number in \[0, 1\). Received: sparsity="):
        layer_sparsities(LENET_5, sparsity, "erk")


def test_unknown_distribution() -> None:
    with pytest.raises(ValueError, match=r"Expected `distribution` out of \('uniform', 'erk'\).*'erkk'.*[Dd]id you"):
        layer_sparsities(LENET_5, 0.5, "erkk")


def test_highest_equals_a_sort() -> None:
    random = np.random.default_rng(0)
    for scores in (random.normal(size=(7, 5)), random.integers(0, 3, (7, 5)) / 2.0, np.zeros((7, 5))):
        for count in (0, 1, 17, 34, 35):
            order = sorted(range(35), key=lambda i: (-scores.ravel()[i], i))
            expected = np.isin(np.arange(35), order[:count]).reshape(7, 5)
            np.testing.assert_array_equal(highest(scores, count), expected)


def test_one_ranking_of_all_keeps_one_of_each() -> None:
    masks = highest_of_all([np.array([[5.0, 4.0]]), np.array([0.5, 0.1]), np.array([3.0])], 0.4)
    assert [mask.tolist() for mask in masks] == [[[True, True]], [True, False], [True]]
    assert highest_of_all([], 0.5) == []


def test_kept_count() -> None:
    assert [kept_count(10, s) for s in (0.0, 0.74, 0.99)] == [10, 3, 1]
    assert kept_count(0, 0.5) == 0
