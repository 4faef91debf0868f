from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from keras_compress.clustering import initialisers
from keras_compress.clustering.initialisers import INITIALISERS

NAMES = ["linear", "density_based", "random", "kmeans++", "optimal"]


def squared_error(values: np.ndarray, centroids: np.ndarray) -> float:
    """Sum of squared distances to the nearest centroid, written without any of the code under test."""
    return float(np.min((values[:, np.newaxis] - centroids[np.newaxis].astype(np.float64)) ** 2, axis=1).sum())


def brute_force(values: np.ndarray, clusters: int) -> float:
    """The smallest error of all ways to cut the sorted values into `clusters` runs."""
    ordered = np.sort(values)
    cuts = itertools.combinations(range(1, ordered.size), clusters - 1)
    return min(sum(float(((run - run.mean()) ** 2).sum()) for run in np.split(ordered, cut)) for cut in map(list, cuts))


def test_registry() -> None:
    assert list(INITIALISERS) == NAMES
    with pytest.raises(ValueError, match=r"Expected one of \['density_based'.*\]. Received: 'kmeans'"):
        initialisers.initialiser("kmeans")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", [1, 2, 7, 16])
def test_sorted_float32_of_the_asked_length_and_reproducible(name: str, number: int) -> None:
    values = np.random.default_rng(3).laplace(size=500)
    centroids = INITIALISERS[name](values, number, 5)
    assert centroids.dtype == np.float32
    assert centroids.shape == (number,)
    assert np.all(np.diff(centroids) > 0)
    assert values.min() - 1e-6 <= centroids[0]
    assert centroids[-1] <= values.max() + 1e-6
    np.testing.assert_array_equal(centroids, INITIALISERS[name](values[::-1], number, 5))


@pytest.mark.parametrize("name", NAMES)
def test_values_are_not_changed(name: str) -> None:
    values = np.array([3.0, 1.0, 2.0, 5.0, 4.0])
    INITIALISERS[name](values, 2, 0)
    np.testing.assert_array_equal(values, [3.0, 1.0, 2.0, 5.0, 4.0])


def test_linear_is_evenly_spaced() -> None:
    np.testing.assert_array_equal(initialisers.linear([4.0, -1.0, 0.5, 0.6], 3), np.float32([-1.0, 1.5, 4.0]))
    np.testing.assert_array_equal(initialisers.linear([4.0, -1.0], 1), np.float32([1.5]))


def test_density_gives_each_centroid_an_equal_share() -> None:
    # Eight values, four shares of two; the median of each share.
    values = [0.0, 0.2, 1.0, 1.2, 10.0, 10.4, 50.0, 60.0]
    np.testing.assert_allclose(initialisers.density(values, 4), [0.1, 1.1, 10.2, 55.0], rtol=1e-6)


def test_density_follows_the_distribution() -> None:
    values = np.random.default_rng(0).normal(size=20_001)
    # Inverse normal distribution at 1/8, 3/8, 5/8, 7/8.
    expected = [-1.15035, -0.31864, 0.31864, 1.15035]
    np.testing.assert_allclose(initialisers.density(values, 4), expected, atol=0.03)


def test_random_takes_distinct_observations_and_follows_the_seed() -> None:
    values = np.random.default_rng(1).normal(size=300).astype(np.float32)
    first, second = initialisers.random(values, 8, 1), initialisers.random(values, 8, 2)
    assert set(first.tolist()) <= set(values.tolist())
    assert len(set(first.tolist())) == 8
    assert not np.array_equal(first, second)


def test_random_prefers_frequent_values() -> None:
    values = np.array([1.0] * 97 + [2.0, 3.0, 4.0])
    chosen = [initialisers.random(values, 1, seed)[0] for seed in range(200)]
    # 97 % expected; a uniform choice among the four would give 25 %.
    assert np.mean(np.equal(chosen, 1.0)) > 0.9


def test_kmeans_plus_plus_finds_separated_groups() -> None:
    generator = np.random.default_rng(2)
    values = np.concatenate([generator.normal(center, 0.01, 40) for center in (-5.0, 0.0, 1.0, 9.0)])
    expected = [values[start : start + 40].mean() for start in (0, 40, 80, 120)]
    np.testing.assert_allclose(initialisers.kmeans_plus_plus(values, 4, 0), expected, rtol=1e-5)


def test_kmeans_plus_plus_is_a_fixed_point_of_lloyd() -> None:
    values = np.random.default_rng(4).normal(size=5000)
    centroids = initialisers.kmeans_plus_plus(values, 8, 0).astype(np.float64)
    nearest = np.abs(values[:, np.newaxis] - centroids).argmin(axis=1)
    means = [values[nearest == index].mean() for index in range(8)]
    np.testing.assert_allclose(centroids, means, atol=2e-3)


@pytest.mark.parametrize(("size", "clusters", "seed"), [(9, 3, 0), (12, 4, 1), (13, 2, 2), (11, 6, 3)])
def test_optimal_equals_brute_force(size: int, clusters: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=size)
    centroids = initialisers.optimal(values, clusters, 0)
    assert squared_error(values, centroids) == pytest.approx(brute_force(values, clusters), rel=1e-5)


@pytest.mark.parametrize("other", [name for name in NAMES if name != "optimal"])
@pytest.mark.parametrize("distribution", ["normal", "laplace", "uniform"])
def test_nothing_beats_optimal(other: str, distribution: str) -> None:
    values = getattr(np.random.default_rng(6), distribution)(size=2000)
    best = squared_error(values, initialisers.optimal(values, 16, 0))
    assert best <= squared_error(values, INITIALISERS[other](values, 16, 0)) * (1 + 1e-6)


def test_optimal_in_groups_is_close_to_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(8).laplace(size=20_000)
    exact = squared_error(values, initialisers.optimal(values, 16, 0))
    monkeypatch.setattr(initialisers, "_EXACT_BUDGET", 20_000)
    grouped = squared_error(values, initialisers.optimal(values, 16, 0))
    assert exact < grouped <= 1.001 * exact


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", [-2.0, -0.8, 0.4, 1.6, 2.8, 4.0]),
        # The distinct values -2, 0, 4 and three between -2 and 4.
        ("density_based", [-2.0, -0.5, 0.0, 1.0, 2.5, 4.0]),
        ("random", [-2.0, -0.5, 0.0, 1.0, 2.5, 4.0]),
        ("kmeans++", [-2.0, -0.5, 0.0, 1.0, 2.5, 4.0]),
        ("optimal", [-2.0, -0.5, 0.0, 1.0, 2.5, 4.0]),
    ],
)
def test_fewer_distinct_values_than_centroids(name: str, expected: list[float]) -> None:
    values = np.array([4.0, 0.0, -2.0, 0.0, 0.0, 4.0, -2.0, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(INITIALISERS[name](values, 6, 0), expected, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_constant_weight(name: str) -> None:
    np.testing.assert_array_equal(INITIALISERS[name](np.full(50, 0.25), 3, 0), np.float32([0.25] * 3))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("values", "number", "message"),
    [
        ([1.0, 2.0], 0, "Expected number_of_centroids >= 1. Received: 0"),
        ([], 2, r"Expected values with one dimension, at least one. Received: shape=\(0,\)"),
        ([[1.0, 2.0]], 2, r"shape=\(1, 2\)"),
        ([1.0, float("nan"), float("inf")], 2, "Expected finite values. Received: 2 NaN or infinite"),
    ],
)
def test_bad_input(name: str, values: list, number: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        INITIALISERS[name](values, number, 0)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "optimal"])
def test_400_000_values_are_quick(name: str) -> None:
    values = np.random.default_rng(0).normal(size=400_000)
    begin = time.perf_counter()
    centroids = INITIALISERS[name](values, 64, 0)
    assert time.perf_counter() - begin < 2.0
    assert centroids.shape == (64,)


def test_as_many_values_as_centroids_are_the_centroids_however_many_weights(monkeypatch) -> None:
    """Also where means of groups would stand for the weights."""
    monkeypatch.setattr(initialisers, "_EXACT_BUDGET", 8)
    values = [0.0] * 97 + [1.0, 2.0, 3.0]
    assert initialisers.optimal(values, 4).tolist() == [0.0, 1.0, 2.0, 3.0]
    assert initialisers.kmeans_plus_plus(values, 4).tolist() == [0.0, 1.0, 2.0, 3.0]
