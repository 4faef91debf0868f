"""What quantizes the inputs of a wrapped layer becomes a layer before it."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

import keras_compress as kc
from keras_compress.graph.input_points import input_points_apart

X = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)


def test_a_model_without_such_points_is_returned_itself() -> None:
    x = keras.Input((6,))
    model = keras.Model(x, layers.Dense(2)(x))
    assert input_points_apart(model) is model
    wrapped = kc.quantize_model(model, activations=None)
    assert input_points_apart(wrapped) is wrapped


def test_a_point_stands_before_its_layer_once_and_computes_the_same() -> None:
    shared = kc.Compressed(
        layers.Dense(6, name="d"),
        {"kernel": [kc.UniformQuantizer()]},
        input_point=kc.QuantizeActivation(kc.FixedGrid(0.25, 3), name="point"),
    )
    x = keras.Input((6,))
    model = keras.Model(x, shared(shared(x)))
    apart = input_points_apart(model)
    assert [layer.name for layer in apart.layers[1:]] == ["point", "d"]
    assert apart.get_layer("d").input_point is None
    assert [type(t).__name__ for t in apart.get_layer("d").transform_list] == ["UniformQuantizer"]
    np.testing.assert_array_equal(np.array(apart(X)), np.array(model(X)))
    # The original keeps its own.
    assert model.get_layer("d").input_point.name == "point"
