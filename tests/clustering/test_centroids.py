from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc
from keras_compress.graph.model import compressed_layers

X = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)


def wrapped(kernel: list, *transforms: kc.WeightTransform) -> kc.Compressed:
    kernel = np.asarray(kernel, np.float32)
    layer = layers.Dense(kernel.shape[1], use_bias=False)
    layer.build((None, kernel.shape[0]))
    layer.kernel.assign(kernel)
    wrapper = kc.Compressed(layer, {"kernel": list(transforms)})
    for transform in transforms:
        wrapper.initialize(transform)
    return wrapper


def step(wrapper: kc.Compressed, weights: list) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of `sum(weights * kernel)`: of the latent weight and of the centroids."""
    x = tf.constant(np.eye(wrapper.latent("kernel").shape[0], dtype=np.float32))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(wrapper(x, training=True) * np.asarray(weights, np.float32))
    variables = [wrapper.latent("kernel").value, wrapper.transform_list[-1].centroids.value]
    return tuple(g.numpy() for g in tape.gradient(loss, variables))


def test_forward_is_the_nearest_centroid() -> None:
    clusterer = kc.CentroidClusterer(3)
    wrapper = wrapped([[0.9, 1.1], [2.0, -1.0], [2.2, -1.2]], clusterer)
    np.testing.assert_allclose(np.sort(np.array(clusterer.centroids)), [[-1.1, 1.0, 2.1]], rtol=1e-6)
    np.testing.assert_allclose(np.array(wrapper.weight("kernel")), [[1, 1], [2.1, -1.1], [2.1, -1.1]], rtol=1e-6)


def test_centroid_gradient_is_the_sum_over_its_weights() -> None:
    wrapper = wrapped([[0.9, 1.1], [2.0, -1.0], [2.2, -1.2]], kc.CentroidClusterer(3))
    to_latent, to_centroids = step(wrapper, [[1, 20], [300, 4000], [50000, 600000]])
    assert to_centroids.tolist() == [[604000.0, 21.0, 50300.0]]
    assert to_latent.tolist() == [[1, 20], [300, 4000], [50000, 600000]]


def test_assignments_follow_the_latent_weight() -> None:
    wrapper = wrapped([[0.9, 1.1], [2.0, -1.0], [2.2, -1.2]], kc.CentroidClusterer(3))
    wrapper.latent("kernel").assign([[0.9, 1.1], [1.2, -1.0], [2.2, 2.0]])
    np.testing.assert_allclose(np.array(wrapper.weight("kernel")), [[1, 1], [1, -1.1], [2.1, 2.1]], rtol=1e-6)


def test_fixed_assignments_are_the_papers() -> None:
    wrapper = wrapped([[0.9, 1.1], [2.0, -1.0], [2.2, -1.2]], kc.CentroidClusterer(3, fixed_assignments=True))
    to_latent, to_centroids = step(wrapper, [[1, 20], [300, 4000], [50000, 600000]])
    assert to_centroids.tolist() == [[604000.0, 21.0, 50300.0]]
    assert to_latent.tolist() == [[0, 0], [0, 0], [0, 0]]
    wrapper.latent("kernel").assign([[0.9, 1.1], [1.2, -1.0], [2.2, 2.0]])
    np.testing.assert_allclose(np.array(wrapper.weight("kernel")), [[1, 1], [2.1, -1.1], [2.1, -1.1]], rtol=1e-6)


@pytest.mark.parametrize("fixed", [False, True])
def test_zeros_of_a_pruner_stay_and_count_as_a_cluster(fixed: bool) -> None:
    pruner = kc.MagnitudePruner(kc.PolynomialDecay(0.5, 0.75, 0, 1, power=1, frequency=1))
    kernel = np.linspace(-4, 4, 16).reshape(8, 2)
    wrapper = wrapped(kernel, pruner)
    wrapper(np.zeros((1, 8), np.float32), training=True)
    both = wrapped(kernel, pruner, kc.CentroidClusterer(4, fixed_assignments=fixed))
    assert both.transform_list[1].centroids.shape == (1, 3)
    weight = np.array(both.weight("kernel"))
    assert (weight == 0).sum() == 8
    assert len(np.unique(weight)) == 4
    gradient = step(both, np.full((8, 2), 1.0))[1]
    assert gradient.sum() == 4.0  # the second step of the schedule left 4 weights
    weight = np.array(both.weight("kernel"))
    assert (weight == 0).sum() == 12


def test_preserve_sparsity_without_a_pruner() -> None:
    kernel = [[0.0, 1.0], [0.0, 2.0], [0.0, 3.0], [0.0, 4.0]]
    kept = np.array(wrapped(kernel, kc.CentroidClusterer(3, preserve_sparsity=True)).weight("kernel"))
    assert kept[:, 0].tolist() == [0, 0, 0, 0]
    assert sorted(set(kept[:, 1].tolist())) == [1.5, 3.5]
    free = np.array(wrapped([[0.1], [0.0], [-0.1], [5.0]], kc.CentroidClusterer(2)).weight("kernel"))
    assert len(np.unique(free)) == 2


def test_one_codebook_for_each_channel() -> None:
    kernel = [[0.0, 10.0], [0.2, 10.2], [1.0, 20.0], [1.2, 20.2]]
    clusterer = kc.CentroidClusterer(2, cluster_per_channel=True)
    wrapper = wrapped(kernel, clusterer)
    np.testing.assert_allclose(np.array(clusterer.centroids), [[0.1, 1.1], [10.1, 20.1]], rtol=1e-5)
    expected = [[0.1, 10.1], [0.1, 10.1], [1.1, 20.1], [1.1, 20.1]]
    np.testing.assert_allclose(np.array(wrapper.weight("kernel")), expected, rtol=1e-5)
    _, gradient = step(wrapper, [[1, 10], [2, 20], [4, 40], [8, 80]])
    assert gradient.tolist() == [[3.0, 12.0], [30.0, 120.0]]


@pytest.mark.parametrize("fixed", [False, True])
def test_per_channel_of_a_depthwise_kernel(fixed: bool) -> None:
    layer = layers.DepthwiseConv2D(3, depth_multiplier=2)
    layer.build((None, 6, 6, 3))
    layer.kernel.assign(np.random.default_rng(0).normal(size=(3, 3, 3, 2)))
    clusterer = kc.CentroidClusterer(2, cluster_per_channel=True, fixed_assignments=fixed)
    wrapper = kc.Compressed(layer, {"kernel": [clusterer]})
    wrapper.initialize(clusterer)
    weight, latent = np.array(wrapper.weight("kernel")), np.array(layer.kernel)
    assert clusterer.centroids.shape == (6, 2)
    weight, latent = weight.reshape(9, 6), latent.reshape(9, 6)
    for channel in range(6):
        values = np.unique(weight[:, channel])
        assert len(values) == 2
        nearest = values[np.argmin(np.abs(latent[:, channel, None] - values), axis=-1)]
        np.testing.assert_array_equal(weight[:, channel], nearest)


@pytest.mark.parametrize("rule", ["linear", "density_based", "random", "kmeans++", "optimal"])
def test_every_initialiser_gives_no_more_than_the_clusters(rule: str) -> None:
    kernel = np.random.default_rng(0).normal(size=(20, 10))
    wrapper = wrapped(kernel, kc.CentroidClusterer(16, cluster_centroids_init=rule))
    assert 8 < len(np.unique(np.array(wrapper.weight("kernel")))) <= 16


def test_the_optimum_has_the_least_error() -> None:
    kernel = np.random.default_rng(0).normal(size=(20, 10))

    def error(rule: str) -> float:
        wrapper = wrapped(kernel, kc.CentroidClusterer(8, cluster_centroids_init=rule))
        return float(((np.array(wrapper.weight("kernel")) - kernel) ** 2).sum())

    errors = {rule: error(rule) for rule in ("linear", "density_based", "random", "kmeans++", "optimal")}
    assert min(errors, key=errors.get) == "optimal"


def test_training_keeps_the_number_of_distinct_values() -> None:
    model = kc.cluster_weights(keras.Sequential([keras.Input((6,)), layers.Dense(12)]), 5)
    model.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=False)
    target = X @ np.random.default_rng(1).choice([-1.0, 0.5, 2.0], (6, 12))
    losses = model.fit(X, target, epochs=30, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    for _, wrapper in compressed_layers(model):
        assert len(np.unique(np.array(wrapper.weight("kernel")))) <= 5


def test_rules_set_the_number_of_clusters() -> None:
    model = keras.Sequential([keras.Input((6,)), layers.Dense(16, name="a"), layers.Dense(8, name="b")])
    model = kc.cluster_weights(model, 4, rules=[{"layers": "b", "number_of_clusters": 9}])
    found = {path: len(np.unique(np.array(w.weight("kernel")))) for path, w in compressed_layers(model)}
    assert found == {"a": 4, "b": 9}


def test_same_seed_same_centroids() -> None:
    kernel = np.random.default_rng(0).normal(size=(20, 10))
    made = [kc.CentroidClusterer(8, cluster_centroids_init="random", seed=seed) for seed in (1, 1, 2)]
    for clusterer in made:
        wrapped(kernel, clusterer)
    first, again, other = (np.array(c.centroids) for c in made)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"number_of_clusters": 1}, "from 2 to 256. Received: number_of_clusters=1"),
        ({"number_of_clusters": 257}, "number_of_clusters=257"),
        ({"number_of_clusters": 4.0}, "number_of_clusters=4.0"),
        ({"number_of_clusters": 4, "cluster_centroids_init": "kmeans"}, "Received: cluster_centroids_init='kmeans'"),
    ],
)
def test_bad_arguments(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kc.CentroidClusterer(**kwargs)
