"""Criteria that look at the loss, by numbers worked out by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc
from keras_compress.data.examples import Examples
from keras_compress.structured.criteria.gradients import Readers
from keras_compress.structured.criteria.legr import _ranking, _SquaredNorm


def _squares(targets, outputs):
    return tf.reduce_sum(tf.square(outputs - targets), -1)


def _linear(second: list[list[float]]) -> keras.Model:
    """x -> h = (x, 2 x) -> h @ second."""
    inputs = keras.Input((1,))
    hidden = layers.Dense(2, use_bias=False, name="h")(inputs)
    model = keras.Model(inputs, layers.Dense(len(second[0]), use_bias=False, name="y")(hidden))
    model.get_layer("h").kernel.assign([[1.0, 2.0]])
    model.get_layer("y").kernel.assign(second)
    return model


def _scores(criterion, model: keras.Model, x, y) -> list[float]:
    graph = kc.channel_graph(model)
    (group,) = graph.prunable
    examples = Examples((np.array(x, np.float32), np.array(y, np.float32)), _squares)
    return criterion.scores(graph, examples)[group.units].tolist()


def test_taylor() -> None:
    model = _linear([[3.0], [-1.0]])
    # h = (1, 2), y = 1, dL/dy = 2: products 2 * 3 * 1 and 2 * -1 * 2.
    assert _scores(kc.Taylor(), model, [[1.0]], [[0.0]]) == pytest.approx([36.0, 16.0])
    # A second example: h = (2, 4), y = 2, dL/dy = 2, products 12 and -8.
    two = ([[1.0], [2.0]], [[0.0], [1.0]])
    assert _scores(kc.Taylor(batch_size=1), model, *two) == pytest.approx([(36 + 144) / 2, (16 + 64) / 2])
    assert _scores(kc.Taylor(batch_size=2), model, *two) == pytest.approx([9.0**2, 6.0**2])
    with pytest.raises(ValueError, match="Received: batch_size=0"):
        kc.Taylor(batch_size=0)


def test_singe() -> None:
    model = _linear([[3.0, 0.0], [-1.0, 2.0]])
    # y = z (1, 4), dL/dy = 2 z (1, 4) with weights z w: the products are z^2 times those of the full weights,
    # 3 * 1 * 2 = 6 for the first channel, (-1 * 2 * 2, 2 * 2 * 8) = (-4, 32) for the second.
    norms = np.array([6.0, (16.0 + 1024.0) ** 0.5])
    assert _scores(kc.SInGE(steps=0), model, [[1.0]], [[0.0, 0.0]]) == pytest.approx(norms.tolist())
    expected = (1 + 1 / 4 + 1 / 16) * norms
    assert _scores(kc.SInGE(steps=2, mu=0.5), model, [[1.0]], [[0.0, 0.0]]) == pytest.approx(expected.tolist())
    # The integral of z ||w g|| dz, which the sum times 1 - mu is near to: 1 / 3 where the loss is a square.
    fine = np.array(_scores(kc.SInGE(steps=400, mu=0.97), model, [[1.0]], [[0.0, 0.0]])) * 0.03
    np.testing.assert_allclose(fine, norms / 2, rtol=0.02)
    with pytest.raises(ValueError, match="Received: steps=3, mu=1.0"):
        kc.SInGE(steps=3, mu=1.0)


@pytest.fixture(scope="module")
def mixed() -> keras.Model:
    """A residual sum, a separable and a depthwise convolution, a nested model, a flattened image."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 2))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", name="stem")(inputs)))
    y = layers.SeparableConv2D(4, 3, padding="same", name="separable")(x)
    x = layers.ReLU()(layers.Add()([x, y]))
    inner = keras.Input((4, 4, 4))
    nested = keras.Model(inner, layers.Conv2D(3, 1, activation="relu", name="inner")(inner), name="nested")
    x = layers.DepthwiseConv2D(3, padding="same")(nested(x))
    return keras.Model(inputs, layers.Dense(3, name="logits")(layers.Flatten()(x)))


def test_a_closed_gate_is_a_cut_channel_and_gradients_are_those_of_gates(mixed: keras.Model) -> None:
    rng = np.random.default_rng(0)
    batch = (rng.normal(size=(6, 4, 4, 2)).astype(np.float32), rng.normal(size=(6, 3)).astype(np.float32))
    graph = kc.channel_graph(mixed)
    readers = Readers(graph, _squares)
    removed = kc.structured.prune.removed_channels(graph, {"stem": [1], "nested/inner": [0, 2]})
    cut = kc.structured.surgery.cut(graph, removed)
    expected = float(tf.reduce_mean(_squares(batch[1], cut(batch[0]))))
    assert readers.loss(batch, (~removed).astype(float)) == pytest.approx(expected, rel=1e-5)
    gradients = readers.sums(batch)
    for group in graph.prunable:
        for unit in group.units:
            moved = [readers.loss(batch, np.where(np.arange(graph.unit_count) == unit, z, 1.0)) for z in (0.99, 1.01)]
            # A separable convolution would be gated twice by both of its kernels.
            assert gradients[unit] == pytest.approx((moved[1] - moved[0]) / 0.02, rel=0.02, abs=0.02)


def test_the_learned_ranking_is_affine_in_squared_norms() -> None:
    assert _SquaredNorm().channel_scores(np.array([[3.0, -4.0], [1.0, 0.0]], np.float32)).tolist() == [25.0, 1.0]
    inputs = keras.Input((2,))
    hidden = layers.Dense(2, name="a")(inputs)
    model = keras.Model(inputs, layers.Dense(1)(layers.Dense(2, name="b")(hidden)))
    graph = kc.channel_graph(model)
    norms = np.zeros(graph.unit_count)
    for group, values in zip(graph.prunable, ([1.0, 4.0], [9.0, 16.0])):
        norms[group.units] = values
    # 2 * 1 + 1, 2 * 4 + 1, 9 - 8, 16 - 8; less the smallest of them.
    ranking = _ranking(graph, norms, np.array([[2.0, 1.0], [1.0, -8.0]]))
    assert [ranking[group.units].tolist() for group in graph.prunable] == [[2.0, 8.0], [0.0, 7.0]]


def test_evolution_finds_the_layer_that_does_not_matter() -> None:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    useful = layers.Dense(8, use_bias=False, activation="relu", name="useful")(inputs)
    useless = layers.Dense(8, use_bias=False, activation="relu", name="useless")(inputs)
    x = layers.Concatenate()([useful, useless])
    model = keras.Model(inputs, layers.Dense(1, use_bias=False, name="y")(x))
    model.get_layer("useless").kernel.assign(model.get_layer("useless").kernel * 10.0)
    model.get_layer("y").kernel.assign(np.concatenate([np.ones((8, 1)), np.full((8, 1), 1e-3)]))
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    data = (x, np.array(model(x)))

    def widths(criterion) -> tuple[int, int]:
        pruned = kc.prune_channels(
            model, 0.4, criterion=criterion, data=data, loss=_squares, scope="global", round_to=1
        )
        return pruned.get_layer("useful").units, pruned.get_layer("useless").units

    no_search = kc.LeGR(macs=0.6, population=1, generations=0)
    assert widths(no_search)[0] < 4
    assert widths(kc.LeGR(macs=0.6, mutation=0.5))[0] > widths(no_search)[0] + 2
    with pytest.raises(ValueError, match="Received: population=0"):
        kc.LeGR(population=0)
