"""The compiled lookup against a NumPy argmin over all distances, for short and long lists of centroids."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.clustering.kernels import LONGEST_CHAIN

# The last of the chains of comparisons, and the first of the searches.
CASES = [
    (5, False, False),
    (LONGEST_CHAIN + 1, False, False),
    (LONGEST_CHAIN + 2, False, False),
    (1, True, True),
    (5, True, True),
    (LONGEST_CHAIN + 2, True, True),
]


def built(count: int, shape: tuple[int, ...], per_channel: bool, keep_zeros: bool) -> kc.CentroidClusterer:
    clusterer = kc.CentroidClusterer(
        count + int(keep_zeros), cluster_per_channel=per_channel, preserve_sparsity=keep_zeros
    )
    clusterer.prepare(shape, (-1,))
    # Trained centroids are in no order.
    clusterer.centroids.assign(np.random.default_rng(count).normal(size=clusterer.centroids.shape))
    return clusterer


def reference(weight: np.ndarray, centroids: np.ndarray, upstream: np.ndarray, keep_zeros: bool):
    """Value and centroid gradient, one element after the other."""
    value, gradient = np.zeros_like(weight), np.zeros_like(centroids, dtype=np.float64)
    for index in np.ndindex(weight.shape):
        row = index[-1] if len(centroids) > 1 else 0
        codebook = np.append(centroids[row], 0.0) if keep_zeros else centroids[row]
        nearest = int(np.argmin(np.abs(codebook.astype(np.float64) - weight[index])))
        if nearest == len(centroids[row]):
            continue  # 0 is a cluster whose centroid is not trained
        value[index] = centroids[row, nearest]
        gradient[row, nearest] += upstream[index]
    return value, gradient


@pytest.mark.parametrize(("count", "per_channel", "keep_zeros"), CASES)
def test_equals_argmin(count: int, per_channel: bool, keep_zeros: bool) -> None:
    random = np.random.default_rng(7)
    shape = (3, 5, 4)
    weight = np.where(random.random(shape) < 0.3, 0.0, random.normal(size=shape)).astype(np.float32)
    upstream = random.normal(size=shape).astype(np.float32)
    clusterer = built(count, shape, per_channel, keep_zeros)
    latent = tf.constant(weight)
    with tf.GradientTape() as tape:
        tape.watch(latent)
        value = clusterer(latent)
        loss = tf.reduce_sum(value * upstream)
    to_latent, to_centroids = tape.gradient(loss, [latent, clusterer.centroids.value])
    expected, gradient = reference(weight, np.array(clusterer.centroids), upstream, keep_zeros)
    np.testing.assert_array_equal(value.numpy(), expected)
    np.testing.assert_allclose(to_centroids.numpy(), gradient, atol=1e-5)
    np.testing.assert_array_equal(to_latent.numpy(), upstream)
    assert np.abs(gradient).sum() > 0


@pytest.mark.parametrize("count", [3, LONGEST_CHAIN + 4])
def test_equal_centroids_and_ties(count: int) -> None:
    """Centroids that have met: the value is theirs, the gradient goes to one of them, none of it is lost."""
    clusterer = built(count, (4, 1), False, False)
    clusterer.centroids.assign(np.sort(np.concatenate([[[1.0, 1.0, 3.0]], np.full((1, count - 3), 50.0)], axis=1)))
    latent = tf.constant([[0.9], [1.0], [2.0], [2.1]])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(clusterer(latent))
    assert clusterer(latent).numpy().ravel().tolist() == [1.0, 1.0, 1.0, 3.0]  # a tie goes to the lower
    gradient = tape.gradient(loss, clusterer.centroids.value).numpy()
    assert gradient[0, :2].sum() == 3.0
    assert gradient[0, 2] == 1.0
    assert gradient[0, 3:].sum() == 0.0


def test_no_distance_matrix() -> None:
    """2,000,000 weights and 100 centroids: a matrix of distances would take 800 MB."""
    clusterer = built(100, (2_000_000,), False, False)
    kernel, state = clusterer.kernel()
    weight = tf.constant(np.random.default_rng(0).normal(size=2_000_000).astype(np.float32))
    graph = tf.function(lambda w: kernel.forward(w, *kernel.prepare(*state))).get_concrete_function(weight).graph
    largest = max(int(np.prod(out.shape)) for op in graph.get_operations() for out in op.outputs)
    assert largest == 2_000_000


@pytest.mark.parametrize("keep_zeros", [False, True])
def test_fixed_assignments_stay_but_for_zeros_that_are_kept(keep_zeros: bool) -> None:
    """Whatever the weights are by now; a weight that was pruned since is 0."""
    clusterer = kc.CentroidClusterer(2 + keep_zeros, fixed_assignments=True, preserve_sparsity=keep_zeros)
    clusterer.prepare((4, 1), (-1,))
    clusterer.centroids.assign([[10.0, 20.0]])
    clusterer.assignments.assign([[0, 1, 1, 2 if keep_zeros else 0]])
    latent, upstream = tf.constant([[19.0], [0.0], [5.0], [7.0]]), tf.constant([[1.0], [10.0], [100.0], [1000.0]])
    with tf.GradientTape() as tape:
        tape.watch(latent)
        value = clusterer(latent)
        loss = tf.reduce_sum(value * upstream)
    to_latent, to_centroids = tape.gradient(loss, [latent, clusterer.centroids.value])
    assert value.numpy().ravel().tolist() == ([10.0, 0.0, 20.0, 0.0] if keep_zeros else [10.0, 20.0, 20.0, 10.0])
    assert to_centroids.numpy().tolist() == ([[1.0, 100.0]] if keep_zeros else [[1001.0, 110.0]])
    assert not to_latent.numpy().any()
