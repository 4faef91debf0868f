"""Where the centroids of a clustering start: five rules with one signature.

Each takes the values of one weight (or of one channel of it), the number of centroids and a seed, and returns
that many centroids as sorted float32. The same arguments give the same centroids. Where there are no more
distinct values than centroids, every rule but `linear` returns all distinct values, and the centroids left
over are spread evenly between the lowest and the highest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Initialiser = Callable[[ArrayLike, int, int], NDArray[np.float32]]

# kmeans++ looks at this many quantiles of the values.
_SEEDING_SAMPLES = 16_384
# Values times centroids up to which the exact optimum takes no more than about two seconds.
_EXACT_BUDGET = 8_000_000
_LLOYD_ITERATIONS = 100


def linear(values: ArrayLike, number_of_centroids: int, seed: int = 0) -> NDArray[np.float32]:
    """Evenly spaced from the lowest value to the highest; a single centroid stands in the middle.

    Args:
        values: Finite numbers, one dimension.
        number_of_centroids: At least 1.
        seed: Not used.

    **Reference**: Han et al. 2016, "Deep Compression", section 3.2, "linear initialization".

    >>> linear([0.0, 0.1, 3.0], 4).tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    ordered = _checked(values, number_of_centroids)
    if number_of_centroids == 1:
        return _finished([(ordered[0] + ordered[-1]) / 2])
    return _finished(np.linspace(ordered[0], ordered[-1], number_of_centroids))


def density(values: ArrayLike, number_of_centroids: int, seed: int = 0) -> NDArray[np.float32]:
    """The cumulative distribution inverted at evenly spaced heights `(i + 1/2) / n`.

    Args:
        values: Finite numbers, one dimension.
        number_of_centroids: At least 1.
        seed: Not used.

    **Reference**: Han et al. 2016, "Deep Compression", section 3.2, "density-based initialization".
    **Deviations**: the paper does not say where the heights begin; here each centroid is the median of an
    equal share of the values.

    >>> density([0.0, 1.0, 2.0, 3.0, 9.0, 10.0], 3).tolist()
    [0.5, 2.5, 9.5]
    """
    ordered = _checked(values, number_of_centroids)
    distinct = np.unique(ordered)
    if distinct.size <= number_of_centroids:
        return _padded(distinct, number_of_centroids)
    heights = (np.arange(number_of_centroids) + 0.5) / number_of_centroids
    return _finished(np.quantile(ordered, heights, method="hazen"))


def random(values: ArrayLike, number_of_centroids: int, seed: int = 0) -> NDArray[np.float32]:
    """Random observations (Forgy), none of them twice.

    Args:
        values: Finite numbers, one dimension.
        number_of_centroids: At least 1.
        seed: Of the random choice.

    **Reference**: Han et al. 2016, "Deep Compression", section 3.2, "Forgy (random) initialization".
    **Deviations**: a value that occurs several times is more likely, but is chosen once.
    """
    distinct, counts = np.unique(_checked(values, number_of_centroids), return_counts=True)
    if distinct.size <= number_of_centroids:
        return _padded(distinct, number_of_centroids)
    generator = np.random.default_rng(seed)
    return _finished(
        generator.choice(distinct, number_of_centroids, replace=False, p=counts / counts.sum(), shuffle=False)
    )


def kmeans_plus_plus(values: ArrayLike, number_of_centroids: int, seed: int = 0) -> NDArray[np.float32]:
    """Greedy k-means++ seeding on up to 16,384 quantiles, then Lloyd's iterations on all the values.

    Args:
        values: Finite numbers, one dimension.
        number_of_centroids: At least 1.
        seed: Of the seeding, 0 to 2^32 - 1.

    **Reference**: Arthur and Vassilvitskii 2007, "k-means++: The Advantages of Careful Seeding"; seeding by
    scikit-learn.
    """
    from sklearn.cluster import kmeans_plusplus

    ordered = _checked(values, number_of_centroids)
    distinct = np.unique(ordered)
    if distinct.size <= number_of_centroids:
        return _padded(distinct, number_of_centroids)
    sample = ordered
    if ordered.size > _SEEDING_SAMPLES:
        sample = ordered[np.linspace(0, ordered.size - 1, _SEEDING_SAMPLES).round().astype(np.int64)]
    if np.unique(sample).size < number_of_centroids:
        sample = distinct
    seeds, _ = kmeans_plusplus(sample.reshape(-1, 1), number_of_centroids, random_state=seed)
    return _finished(_lloyd(ordered, np.sort(seeds[:, 0])))


def optimal(values: ArrayLike, number_of_centroids: int, seed: int = 0) -> NDArray[np.float32]:
    """The centroids with the smallest sum of squared distances there is: k-means is exact in one dimension.

    Args:
        values: Finite numbers, one dimension.
        number_of_centroids: At least 1.
        seed: Not used.

    **Reference**: Wu 1991, "Optimal quantization by matrix searching"; Grønlund et al. 2017, "Fast exact
    k-means, k-medians and Bregman divergence clustering in 1D"; computed by the package kmeans1d.
    **Deviations**: beyond 8,000,000 values times centroids (400,000 weights with 20 centroids) it is exact
    for the means of small groups of neighbouring values, and Lloyd's iterations on all the values follow.

    >>> optimal([0.0, 1.0, 2.0, 8.0, 9.0], 2).tolist()
    [1.0, 8.5]
    """
    import kmeans1d

    ordered = _checked(values, number_of_centroids)
    distinct = np.unique(ordered)
    if distinct.size <= number_of_centroids:
        return _padded(distinct, number_of_centroids)
    groups = max(_EXACT_BUDGET // number_of_centroids, 4 * number_of_centroids)
    if ordered.size <= groups:
        return _finished(kmeans1d.cluster(ordered.tolist(), number_of_centroids).centroids)
    bounds = np.linspace(0, ordered.size, groups + 1).round().astype(np.int64)
    means = np.add.reduceat(ordered, bounds[:-1]) / np.diff(bounds)
    centroids = np.asarray(kmeans1d.cluster(means.tolist(), number_of_centroids).centroids)
    return _finished(_lloyd(ordered, np.sort(centroids)))


INITIALISERS: dict[str, Initialiser] = {
    "linear": linear,
    "density_based": density,
    "random": random,
    "kmeans++": kmeans_plus_plus,
    "optimal": optimal,
}


def initialiser(name: str) -> Initialiser:
    """Finds an initialiser by name.

    Raises:
        ValueError: Unknown name.

    >>> initialiser("linear")([-1.0, 1.0], 3, 0).tolist()
    [-1.0, 0.0, 1.0]
    """
    if name not in INITIALISERS:
        raise ValueError(f"Expected one of {sorted(INITIALISERS)}. Received: {name!r}")
    return INITIALISERS[name]


def _checked(values: ArrayLike, number_of_centroids: int) -> Floats:
    """The values sorted, as float64."""
    array = np.asarray(values, dtype=np.float64)
    if number_of_centroids < 1:
        raise ValueError(f"Expected number_of_centroids >= 1. Received: {number_of_centroids}")
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"Expected values with one dimension, at least one. Received: shape={array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"Expected finite values. Received: {np.sum(~np.isfinite(array))} NaN or infinite")
    return np.sort(array)


def _finished(centroids: Floats | Sequence[float]) -> NDArray[np.float32]:
    return np.sort(np.asarray(centroids, dtype=np.float64)).astype(np.float32)


def _padded(distinct: Floats, number_of_centroids: int) -> NDArray[np.float32]:
    """All distinct values; what is left over is spread evenly inside their range."""
    left_over = number_of_centroids - distinct.size
    spread = np.linspace(distinct[0], distinct[-1], left_over + 2)[1:-1]
    return _finished(np.concatenate([distinct, spread]))


def _lloyd(ordered: Floats, centroids: Floats) -> Floats:
    """Lloyd's iterations in one dimension: a cluster is a slice of the sorted values."""
    prefix_sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(_LLOYD_ITERATIONS):
        edges = np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2)
        bounds = np.concatenate([[0], edges, [ordered.size]])
        counts = np.diff(bounds)
        # A cluster without values stays where it is.
        means = np.where(counts > 0, np.diff(prefix_sums[bounds]) / np.maximum(counts, 1), centroids)
        if np.array_equal(means, centroids):
            break
        centroids = means
    return centroids
