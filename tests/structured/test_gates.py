"""Channels that are not 0 when masked, read by something that has no weight to mask: masked equals cut there too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import Input, layers, ops
from tests_structured import half, headed, shake

import keras_compress as kc
from keras_compress.structured import surgery
from keras_compress.structured.dependency import channel_graph
from keras_compress.structured.rules.gate import ChannelGate
from keras_compress.structured.surgery import cut, largest_difference

EXACT = 1e-5


def unit() -> keras.Model:
    x = Input((6,))
    return headed(x, layers.UnitNormalization()(layers.Dense(8, activation="sigmoid", name="a")(x)))


def another_axis() -> keras.Model:
    x = Input((8, 6))
    y = layers.Permute((2, 1))(layers.Dense(8, activation="sigmoid", name="a")(x))
    return headed(x, layers.UnitNormalization(axis=1)(y))


def product() -> keras.Model:
    x = Input((5, 6))
    a, b = (layers.Dense(8, activation=f, name=name)(x) for name, f in (("a", "sigmoid"), ("b", "softplus")))
    return headed(x, layers.Dot((2, 2))([a, b]))


def attention() -> keras.Model:
    x = Input((5, 6))
    a, b = (layers.Dense(8, activation=f, name=name)(x) for name, f in (("a", "sigmoid"), ("b", "softplus")))
    return headed(x, layers.Attention(use_scale=True)([a, b]))


def nested() -> keras.Model:
    """The norm is in a model that is called twice."""
    x, inside = Input((6,)), Input((8,))
    held = keras.Model(inside, layers.UnitNormalization()(layers.Activation("sigmoid")(inside)), name="held")
    return headed(x, layers.Add()([held(layers.Dense(8, name=name)(x)) for name in "ab"]))


def total() -> keras.Model:
    x = Input((5, 6))
    return headed(x, ops.sum(layers.Dense(8, activation="sigmoid", name="a")(x), axis=-1))


def twice() -> keras.Model:
    x = Input((6,))
    y = layers.UnitNormalization()(layers.Dense(8, activation="sigmoid", name="a")(x))
    return headed(x, layers.UnitNormalization()(layers.Dense(8, activation="sigmoid", name="b")(y)))


BUILDS = (unit, another_axis, product, attention, nested, total)


def shaken(build: Callable[[], keras.Model]) -> tuple[keras.Model, Any]:
    keras.utils.set_random_seed(0)
    model = build()
    shake(model)
    return model, surgery.random_inputs(model, 4, 0)


@pytest.mark.parametrize("build", BUILDS)
def test_masked_is_cut(build: Callable[[], keras.Model]) -> None:
    model, x = shaken(build)
    graph = channel_graph(model)
    removed = half(graph)
    pruned = cut(graph, removed)
    assert largest_difference(surgery.mask(graph, removed, ("in", "out", "through")), pruned, x) < EXACT
    # What makes them alone is not enough, or the test would say nothing.
    assert largest_difference(surgery.mask(graph, removed, ("in", "out", "through")), model, x) > 0.01
    assert not np.allclose(surgery.mask(graph, removed)(x), pruned(x), rtol=0.01)


@pytest.mark.parametrize("build", [product, nested])
def test_while_it_trains_too(build: Callable[[], keras.Model], tmp_path: Path) -> None:
    model, x = shaken(build)
    masked = kc.mask_channels(model, kc.ConstantSparsity(0.5, 0), round_to=1)
    np.testing.assert_allclose(masked(x), model(x), rtol=1e-5, atol=1e-6)
    masked.compile("sgd", "mse", run_eagerly=True)
    masked.train_on_batch(x, np.zeros((4, 3)))
    pruned = kc.cut_masked(masked)
    assert pruned.count_params() < 0.75 * model.count_params()
    assert largest_difference(masked, pruned, x) < EXACT
    assert {type(layer) for layer in pruned._flatten_layers()} == {type(layer) for layer in model._flatten_layers()}
    assert [layer.name for layer in pruned.layers[1:]] == [layer.name for layer in model.layers[1:]]
    masked.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "m.keras")(x), masked(x))
    np.testing.assert_array_equal(kc.strip(masked)(x), masked(x))


def test_channels_that_are_not_cut_keep_their_gate() -> None:
    model, x = shaken(twice)
    masked = kc.mask_channels(model, kc.ConstantSparsity(0.5, 0), round_to=1)
    masked.compile("sgd", "mse", run_eagerly=True)
    masked.train_on_batch(x, np.zeros((4, 3)))
    left = kc.cut_masked(masked, filters="b")
    assert largest_difference(masked, left, x) < EXACT
    assert [layer.name for layer in left.layers if isinstance(layer, ChannelGate)] == ["a_gate"]
    assert [left.get_layer(name).units for name in "ab"] == [8, 4]


def test_a_scan_sees_the_cut_model() -> None:
    model, x = shaken(unit)
    seen: list[np.ndarray] = []
    kc.sensitivity(model, lambda each: float(seen.append(np.array(each(x))) is None), ratios=[0.5])
    np.testing.assert_allclose(seen[0], model(x), rtol=1e-5)
    np.testing.assert_allclose(seen[1], kc.prune_channels(model, 0.5)(x), rtol=1e-4, atol=1e-6)


def test_layers_with_weights_have_no_gate() -> None:
    x = Input((5, 6))
    y = layers.Dense(8, activation="sigmoid")(x)
    y = layers.MultiHeadAttention(2, 3)(y, layers.LSTM(4, return_sequences=True)(y))
    masked = kc.mask_channels(headed(x, y), round_to=1)
    assert not any("gate" in layer.name for layer in masked.layers)
