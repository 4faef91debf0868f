"""Criteria that look at activations, by numbers worked out by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.data.examples import Examples


def _scores(criterion, model: keras.Model, x) -> list[float]:
    graph = kc.channel_graph(model)
    (group,) = graph.prunable
    return criterion.scores(graph, Examples(np.array(x, np.float32)))[group.units].tolist()


def _one_layer(kernel, activation: str | None) -> keras.Model:
    inputs = keras.Input((len(kernel),))
    hidden = layers.Dense(len(kernel[0]), use_bias=False, activation=activation, name="h")(inputs)
    model = keras.Model(inputs, layers.Dense(1)(hidden))
    model.get_layer("h").kernel.assign(kernel)
    return model


def test_percentage_of_zeros() -> None:
    # relu(x) is 0 for one of four, relu(-x) for three.
    x = [[1.0], [2.0], [-1.0], [3.0]]
    assert _scores(kc.APoZ(), _one_layer([[1.0, -1.0]], "relu"), x) == [0.75, 0.25]
    with pytest.raises(ValueError, match="of whose layers each has no channel that is ever exactly 0"):
        _scores(kc.APoZ(), _one_layer([[1.0, -1.0]], None), x)


def test_percentage_of_zeros_in_a_nested_model_that_is_called_twice() -> None:
    """Values before pooling and flattening count, and those of both calls."""
    inner = keras.Input((2, 2, 1))
    hidden = layers.Conv2D(2, 1, use_bias=False, activation="relu", name="c")(inner)
    nested = keras.Model(inner, layers.Flatten()(layers.MaxPooling2D(2)(hidden)))
    first, second = keras.Input((2, 2, 1), name="first"), keras.Input((2, 2, 1), name="second")
    shared = layers.Dense(1)
    model = keras.Model([second, first], layers.Add()([shared(nested(first)), shared(nested(second))]))
    nested.get_layer("c").kernel.assign([[[[1.0, -1.0]]]])
    data = {
        "first": np.array([1.0, -1.0, -1.0, -1.0], np.float32).reshape(1, 2, 2, 1),
        "second": np.array([1.0, 2.0, -1.0, -3.0], np.float32).reshape(1, 2, 2, 1),
    }
    graph = kc.channel_graph(model)
    scores = kc.APoZ().scores(graph, Examples(data))
    assert scores[graph.prunable[0].units].tolist() == [3 / 8, 5 / 8]
    in_order = Examples(lambda: iter([(data["second"], data["first"])]))
    assert len(list(in_order)) == 1
    as_list = Examples([((data["second"], data["first"]), None)])
    np.testing.assert_array_equal(kc.APoZ().scores(graph, as_list), scores)


def test_energy() -> None:
    # Variances 2 and 1/2 without covariance: 2 is 80 % of the energy.
    x = [[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
    straight = _one_layer([[1.0, 0.0], [0.0, 1.0]], None)
    assert _scores(kc.PCA(energy=0.75), straight, x) == pytest.approx([2.0, 0.0])
    assert _scores(kc.PCA(energy=0.99), straight, x) == pytest.approx([2.0, 0.5])
    # Turned by 45 degrees both channels have half of each component; a mean changes nothing.
    turned = _one_layer((np.array([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5).tolist(), None)
    shifted = (np.array(x) + 5.0).tolist()
    assert _scores(kc.PCA(energy=0.75), turned, shifted) == pytest.approx([1.0, 1.0], rel=1e-4)
    assert _scores(kc.PCA(energy=1.0), turned, shifted) == pytest.approx([1.25, 1.25], rel=1e-4)
    with pytest.raises(ValueError, match="Received: energy=0"):
        kc.PCA(energy=0.0)
