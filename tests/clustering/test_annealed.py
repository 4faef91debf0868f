"""Soft assignments that become hard: the mixture by hand, its schedule and its end."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc
from keras_compress.clustering import annealed


def wrapped(**settings: object) -> tuple[kc.Compressed, kc.AnnealedClusterer]:
    layer = layers.Dense(4, use_bias=False, name="dense")
    layer.build((None, 1))
    layer.kernel.assign(np.float32([[0.0, 0.5, 2.0, 2.0]]))
    clusterer = kc.AnnealedClusterer(2, **settings)
    wrapper = kc.Compressed(layer, {"kernel": [clusterer]})
    wrapper.initialize(clusterer)
    clusterer.centroids.assign([[0.0, 2.0]])
    clusterer.spacing.assign(2.0)
    return wrapper, clusterer


def test_the_mixture_of_a_weight_between_two_centroids() -> None:
    # (0.5 / 2)^2 = 0.0625 and (1.5 / 2)^2 = 0.5625: shares 1 / (1 + e^-0.5) and 1 / (1 + e^0.5) at a hardness of 1.
    wrapper, clusterer = wrapped(steps=2)
    kernel = wrapper.latent("kernel").value
    share = 1 / (1 + np.exp(0.5))
    assert share == pytest.approx(0.377541, abs=1e-6)
    np.testing.assert_allclose(clusterer(kernel, training=True)[0, 1], 2 * share, rtol=1e-5)
    # Half of the way, sqrt(1 * 1000) = 31.6: shares of e^(-0.5 * 31.6) = 1.4e-7.
    clusterer.step.assign(1)
    np.testing.assert_allclose(clusterer.hardness(1), 31.6228, rtol=1e-5)
    np.testing.assert_allclose(clusterer(kernel, training=True)[0, 1], 2.7e-7, rtol=0.05)
    np.testing.assert_array_equal(clusterer(kernel), [[0.0, 0.0, 2.0, 2.0]])


def test_weights_and_centroids_have_the_gradient_of_the_mixture() -> None:
    wrapper, clusterer = wrapped()
    kernel = wrapper.latent("kernel").value
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        made = clusterer(kernel, training=True)[0, 1]
    of_weight, of_centroids = tape.gradient(made, [kernel, clusterer.centroids])
    # y = 2 s(u) with u = 0.5625 - 0.0625 = (4 - 4 w) / 4 at w = 1/2: dy/dw = 2 s (1 - s) * 1, s = 0.37754.
    np.testing.assert_allclose(of_weight[0, 1], 2 * 0.377541 * 0.622459, rtol=1e-4)
    assert np.all(np.array(of_centroids) != 0.0)


@pytest.mark.parametrize("at_once", [1 << 22, 40])
@pytest.mark.parametrize("run", ["eager", "graph", "xla"])
def test_pieces_give_the_values_and_gradients_of_the_whole(
    at_once: int, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    weight, upstream = (tf.constant(random.normal(size=(7, 9)), tf.float32) for _ in range(2))
    table, hardness, spacing = tf.constant([-1.0, -0.2, 0.5, 1.5]), tf.constant(3.0), tf.constant(0.8)
    monkeypatch.setattr(annealed, "AT_ONCE", at_once)
    held: list[int] = []
    shares_of = annealed._shares

    def seen(values: tf.Tensor, *rest: tf.Tensor) -> tf.Tensor:
        shares = shares_of(values, *rest)
        held.append(shares.shape.num_elements())
        return shares

    monkeypatch.setattr(annealed, "_shares", seen)

    def gradients(mixed: Callable[[], tf.Tensor]) -> tuple[tf.Tensor, ...]:
        with tf.GradientTape() as tape:
            tape.watch([weight, table])
            made = mixed()
        return (made, *tape.gradient(made, [weight, table], upstream))

    def in_pieces() -> tuple[tf.Tensor, ...]:
        return gradients(lambda: annealed.mixture(weight, table, hardness, spacing))

    def whole() -> tf.Tensor:
        squares = tf.square((weight[..., tf.newaxis] - table) / spacing)
        return tf.reduce_sum(tf.nn.softmax(-hardness * squares) * table, axis=-1)

    found = in_pieces() if run == "eager" else tf.function(in_pieces, jit_compile=run == "xla")()
    for ours, theirs in zip(found, gradients(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)
    # 63 weights and 4 centroids: all at once, or 9 weights in each of 7 pieces.
    assert set(held) == {252 if at_once > 252 else 36}


def test_what_trains_softly_ends_as_few_values() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), layers.Dense(16, activation="relu"), layers.Dense(2)])
    soft = kc.cluster_softly(model, 4, steps=16)
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    soft.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    with pytest.warns(UserWarning, match="soft assignments stopped at step 0, before they were hard at step 16"):
        kc.strip(soft)
    soft.fit(x, x[:, :2], batch_size=8, epochs=2, verbose=0)
    plain = kc.strip(soft)
    assert all(len(np.unique(layer.kernel)) <= 4 for layer in plain.layers)
    # Training ended where inference is.
    np.testing.assert_allclose(np.array(soft(x, training=True)), np.array(plain(x)), atol=0.15)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"soft": 0.0}, {"soft": 5.0, "hard": 2.0}])
def test_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"Expected `{next(iter(settings))}`"):
        kc.AnnealedClusterer(4, **settings)
