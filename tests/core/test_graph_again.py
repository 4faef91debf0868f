"""`Call.again`: calls written down with the shapes of the old graph, beside those that Keras infers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from keras_compress.graph import graph


def net() -> keras.Model:
    inputs = keras.Input((8, 6), name="x")
    first, second = keras.ops.split(layers.Conv1D(6, 3, padding="same")(inputs), 2, axis=-1)
    (only,) = keras.ops.split(layers.Add()([first, second]), 1, axis=-1)
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(only)))


def test_a_graph_walked_again_is_the_same_function() -> None:
    keras.utils.set_random_seed(0)
    model = net()
    rebuilt = graph.Rebuild(graph.Call.again).model(model)
    assert [type(n.operation) for n in graph.nodes(rebuilt)] == [type(n.operation) for n in graph.nodes(model)]
    for ours, old in zip(graph.nodes(rebuilt), graph.nodes(model), strict=True):
        assert [(t.shape, t.dtype) for t in ours.outputs] == [(t.shape, t.dtype) for t in old.outputs]
    x = np.random.default_rng(0).normal(size=(3, 8, 6)).astype(np.float32)
    np.testing.assert_array_equal(rebuilt(x), model(x))


def test_other_shapes_are_inferred() -> None:
    rebuilt = graph.Rebuild(graph.Call.again, batch_size=5).model(net())
    assert {t.shape[0] for node in graph.nodes(rebuilt) for t in node.outputs} == {5}


@pytest.mark.parametrize("mask_zero", [False, True])
def test_masks_go_along(mask_zero) -> None:
    numbers = keras.Input((4,), dtype="int32")
    model = keras.Model(numbers, layers.LSTM(3)(layers.Embedding(9, 2, mask_zero=mask_zero)(numbers)))
    x = np.array([[1, 2, 0, 0], [3, 4, 5, 6]])
    rebuilt = graph.Rebuild(graph.Call.again).model(model)
    np.testing.assert_array_equal(rebuilt(x), model(x))
