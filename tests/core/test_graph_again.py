"""Calls written down, and computed, without what Keras looks at in each, beside those that Keras makes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc
from keras_compress.core import keras_private
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


def quick_and_slow(model: keras.Model, x: np.ndarray) -> list[np.ndarray]:
    runs = (graph.Call.values, graph.Call.run)
    return [np.asarray(graph.Rebuild(run).run(model, [tf.constant(x)], "", 0)) for run in runs]


def test_values_are_those_of_a_call() -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    y = layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu")(inputs))
    y = layers.GaussianNoise(1.0)(layers.Dropout(0.9)(y)) * 2.0
    model = keras.Model(inputs, layers.Dense(2)(layers.LSTM(3)(layers.Reshape((36, 4))(y))))
    model = kc.quantize_model(model, activations=None)
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    quick, slow = quick_and_slow(model, x)
    np.testing.assert_array_equal(quick, slow)
    np.testing.assert_array_equal(quick, model(x))


class Own(layers.Layer):
    """Counts on what Keras hands it."""

    def call(self, inputs, training=None):
        return inputs * (0.0 if training is None else 1.0)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "float64"])
def test_values_of_other_types_masks_and_own_layers_are_keras_s(policy) -> None:
    numbers = keras.Input((4,), dtype="int32")
    y = layers.Embedding(9, 6, mask_zero=True, dtype=policy)(numbers)
    y = Own(dtype=policy)(layers.Dense(5, dtype=policy)(layers.LSTM(3)(y)))
    quick, slow = quick_and_slow(keras.Model(numbers, y), np.array([[1, 2, 0, 0], [3, 4, 5, 6]], np.int32))
    assert quick.dtype == slow.dtype
    np.testing.assert_array_equal(quick, slow)


def called(add: bool) -> list[keras.KerasTensor]:
    keras.utils.set_random_seed(0)
    call = graph.written if add else lambda layer, *args: layer(*args)
    inputs = keras.Input((8, 6))
    first = call(layers.Activation("tanh", name="first"), inputs)
    dense = layers.Dense(6, name="dense")
    dense.build((None, 8, 6))
    second = call(layers.Add(name="second"), [first, call(dense, inputs)])
    unbuilt = call(layers.Conv1D(2, 3, name="unbuilt"), second)
    half = call(layers.Dense(3, dtype="mixed_float16", name="half"), unbuilt)
    masked = call(layers.Embedding(5, 2, mask_zero=True, name="rows"), keras.Input((3,), dtype="int32", name="rows_in"))
    return [first, second, unbuilt, half, masked, call(layers.Dense(2, name="last"), masked)]


def test_calls_that_are_written_are_those_that_keras_makes() -> None:
    for ours, keras_s in zip(called(True), called(False), strict=True):
        assert (ours.shape, ours.dtype) == (keras_s.shape, keras_s.dtype)
        assert keras_private.is_plain(ours) == keras_private.is_plain(keras_s)
        nodes = [keras_private.call_node(tensor) for tensor in (ours, keras_s)]
        assert len({(type(n.operation), n.operation.name, n.operation.built) for n in nodes}) == 1
        assert len({len(n.input_tensors) for n in nodes}) == 1
