"""Criteria that look at weights, by numbers worked out by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.data.examples import Examples


def _dense(*kernels: list[list[float]]) -> keras.Model:
    """Layers between one input and one output, each with a kernel given by the rows of its units."""
    inputs = keras.Input((2,))
    made = [layers.Dense(len(rows), name=f"d{i}")(inputs) for i, rows in enumerate(kernels)]
    x = layers.Add()(made) if len(made) > 1 else made[0]
    model = keras.Model(inputs, layers.Dense(1, name="out")(x))
    for i, rows in enumerate(kernels):
        model.get_layer(f"d{i}").kernel.assign(np.transpose(rows))
    return model


def _scores(criterion, model: keras.Model) -> list[float]:
    graph = kc.channel_graph(model)
    (group,) = graph.prunable
    return criterion.scores(graph, Examples())[group.units].tolist()


ON_A_LINE = [[0.0, 0.0], [3.0, -4.0], [6.0, -8.0]]


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        (kc.L1(), [0.0, 7.0, 14.0]),
        (kc.L2(), [0.0, 5.0, 10.0]),
        # Distances 5, 10 and 5: the one in the middle is nearest to the others.
        (kc.FPGM(), [15.0, 10.0, 15.0]),
    ],
)
def test_norms_and_distances(criterion, expected: list[float]) -> None:
    assert _scores(criterion, _dense(ON_A_LINE)) == pytest.approx(expected)
    # A second layer with twice the weights makes the same channels: the mean of 1 and 2 times.
    twice = (2.0 * np.array(ON_A_LINE)).tolist()
    assert _scores(criterion, _dense(ON_A_LINE, twice)) == pytest.approx([1.5 * each for each in expected])


def test_filters_of_a_convolution() -> None:
    model = keras.Sequential(
        [keras.Input((3, 3, 1)), layers.Conv2D(2, (1, 2), name="c"), layers.Flatten(), layers.Dense(1)]
    )
    model.get_layer("c").kernel.assign(np.array([[3.0, 1.0], [-4.0, 1.0]]).reshape(1, 2, 1, 2))
    assert _scores(kc.L1(), model) == pytest.approx([7.0, 2.0])
    assert _scores(kc.L2(), model) == pytest.approx([5.0, 2.0**0.5])
    assert _scores(kc.FPGM(), model) == pytest.approx([29.0**0.5] * 2)


def _with_norms(gammas: list[list[float]], plain: bool = False) -> keras.Model:
    inputs = keras.Input((2,))
    made = []
    for i in range(len(gammas)):
        made.append(layers.BatchNormalization(name=f"n{i}")(layers.Dense(2)(inputs)))
    x = layers.Add()(made) if len(made) > 1 else made[0]
    x = layers.Dense(2, name="plain")(x) if plain else x
    model = keras.Model(inputs, layers.Dense(1, name="out")(x))
    for i, values in enumerate(gammas):
        model.get_layer(f"n{i}").gamma.assign(values)
    return model


def test_gammas() -> None:
    assert _scores(kc.BNGamma(), _with_norms([[-0.5, 2.0]])) == [0.5, 2.0]
    assert np.array(kc.BNGamma().tensor_scores(np.array([[-0.5], [2.0]], np.float32))).tolist() == [0.5, 2.0]
    assert _scores(kc.BNGamma(), _with_norms([[-0.5, 2.0], [1.5, 0.0]])) == [1.0, 1.0]


def test_groups_without_gammas() -> None:
    model = _with_norms([[-0.5, 2.0]], plain=True)
    model.get_layer("plain").kernel.assign([[1.0, -2.0], [0.0, 1.0]])
    graph = kc.channel_graph(model)
    with pytest.warns(UserWarning, match="plain: no BatchNormalization with a gamma; ranked by the L1 norm"):
        scores = kc.BNGamma().scores(graph, Examples())
    # Norms 1 and 3, of mean 2; gammas of mean 1.25.
    assert [scores[group.units].tolist() for group in graph.prunable] == [[0.5, 2.0], [0.625, 1.875]]
    with pytest.raises(ValueError, match="can tell apart.*each has no BatchNormalization with a gamma"):
        kc.BNGamma().scores(kc.channel_graph(_dense(ON_A_LINE)), Examples())


def test_random_numbers_depend_on_the_seed_alone() -> None:
    model = _dense(ON_A_LINE)
    first = _scores(kc.Random(seed=1), model)
    assert first == _scores(kc.Random(seed=1), model) != _scores(kc.Random(seed=2), model)
