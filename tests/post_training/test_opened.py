from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.graph import graph
from keras_compress.post_training.gptq import gptq
from keras_compress.post_training.opened import opened, samples_for, wrappers_of
from keras_compress.post_training.reconstruction import adaround
from keras_compress.post_training.record import record_of
from keras_compress.post_training.start import with_ranges


@keras.saving.register_keras_serializable(package="test_opened")
class Block(keras.layers.Layer):
    """A user's residual block."""

    def __init__(self, units: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.dense = keras.layers.Dense(units)

    def build(self, shape: tuple) -> None:
        self.dense.build(shape)

    def call(self, inputs: object) -> object:
        return inputs + keras.ops.relu(self.dense(inputs))

    def get_config(self) -> dict:
        return {**super().get_config(), "units": self.units}


def written() -> keras.Model:
    keras.utils.set_random_seed(0)
    within = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6, activation="relu", name="nested")])
    inputs = keras.Input((6,), name="features")
    return keras.Model(inputs, keras.layers.Dense(3, name="last")(Block(6, name="block")(within(inputs))))


def test_nested_models_and_layers_of_users_are_in_line() -> None:
    quantized = kc.quantize_model(written(), weights="int4", activations=None)
    flat = opened(quantized)
    names = [each.name for node in graph.nodes(flat) for each in wrappers_of(node)]
    assert names == ["nested", "dense", "last"]
    values = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    np.testing.assert_allclose(flat([values]), quantized(values), atol=1e-6)
    # The very layers: what is set in one is set in both.
    node = next(node for node in graph.nodes(flat) if node.operation.name == "last")
    assert node.operation is quantized.get_layer("last")


def test_samples_are_the_first_and_no_more_than_wanted() -> None:
    model = written()
    values = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    (taken,) = samples_for(model, opened(model), iter(np.array_split(values, 10)), most=12)
    np.testing.assert_array_equal(taken, values[:12])


def test_samples_by_the_name_of_the_input() -> None:
    model = written()
    values = np.ones((3, 6), np.float32)
    np.testing.assert_array_equal(samples_for(model, opened(model), {"features": values})[0], values)


def test_no_data_are_refused() -> None:
    model = written()
    with pytest.raises(ValueError, match="at least one"):
        samples_for(model, opened(model), iter([]))


def test_rounding_is_learned_inside_layers_of_users() -> None:
    model = written()
    values = np.random.default_rng(0).normal(size=(128, 6)).astype(np.float32)
    quantized = kc.quantize_model(model, weights="int3", activations=None)
    made = adaround(quantized, values, steps=150)
    effects = record_of(made).effects
    errors = [float(np.square(m(values) - model(values)).mean()) for m in (quantized, made)]
    assert errors[1] < 0.5 * errors[0]
    assert len(effects) == 3


def test_tables_and_half_precision() -> None:
    keras.utils.set_random_seed(0)
    numbers = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(20, 8, name="table")(numbers)
    x = keras.layers.Dense(8, activation="relu", dtype="mixed_float16", name="half")(x)
    model = keras.Model(numbers, keras.layers.Dense(3, name="last")(keras.layers.Flatten()(x)))
    values = np.random.default_rng(0).integers(0, 20, (64, 5)).astype(np.int32)
    quantized = with_ranges(kc.quantize_model(model, weights="int3", activations="int8"), values)
    made = adaround(quantized, values, steps=100)
    with pytest.warns(UserWarning, match="no form of a Embedding"):
        solved = gptq(quantized, values)
    nearest, *better = (float(np.square(m(values) - model(values)).mean()) for m in (quantized, made, solved))
    assert max(better) < nearest
