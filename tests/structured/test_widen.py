"""Growing by hand: what Net2Net's equations give, widths and budgets, and the same function in every kind of graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from tests_structured import headed, shake

import keras_compress as kc
from keras_compress.structured.channel_graph import ChannelGraph
from keras_compress.structured.copying import with_copies
from keras_compress.structured.dependency import channel_graph
from keras_compress.structured.surgery import largest_difference, random_inputs


def chain(widths: tuple[int, ...] = (8, 5)) -> keras.Model:
    hidden = [layers.Dense(n, activation="relu", name=f"d{i}") for i, n in enumerate(widths)]
    return keras.Sequential([keras.Input((3,)), *hidden, layers.Dense(2, name="logits")])


def widths_of(model: keras.Model) -> list[int]:
    return [layer.units for layer in model.layers]


def test_a_channel_that_is_there_three_times_is_read_with_a_third_of_its_weights() -> None:
    # Net2Net, section 2.2: U[:, j] = W[:, g(j)] and V[j, :] = W[g(j), :] / |{x : g(x) = g(j)}|, for g = (1, 2, 2, 2).
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2, name="first"), layers.Dense(2, name="second")])
    model.set_weights([np.float32(each) for each in ([[1, 2], [3, 4]], [5, 6], [[7, 8], [9, 12]], [1, 2])])
    graph = channel_graph(model)
    units = next(group for group in graph.groups if group.name == "first").units
    copies = np.ones(graph.unit_count, np.int64)
    copies[units[1]] = 3
    first, bias, second, last = with_copies(graph, copies).get_weights()
    np.testing.assert_array_equal(first, np.float32([[1, 2, 2, 2], [3, 4, 4, 4]]))
    np.testing.assert_array_equal(bias, np.float32([5, 6, 6, 6]))
    np.testing.assert_array_equal(second, np.float32([[7, 8], [3, 4], [3, 4], [3, 4]]))
    np.testing.assert_array_equal(last, np.float32([1, 2]))


def test_noise_parts_copies_and_changes_no_sum() -> None:
    wide = kc.widen(chain((4,)), 3.0, function_preserving=True, noise=0.5, seed=1)
    plain = kc.widen(chain((4,)), 3.0, function_preserving=True, noise=0.0, seed=1)
    first, _, second, _ = wide.get_weights()
    copies = np.unique(first, axis=1, return_inverse=True)[1].ravel()
    of_one = np.flatnonzero(copies == np.argmax(np.bincount(copies)))
    assert len(np.unique(second[of_one], axis=0)) == len(of_one)
    assert len(np.unique(plain.get_weights()[2][of_one], axis=0)) == 1


def net(build: Callable[[Any], Any], shape: tuple[int, ...] = (6, 6, 3)) -> Callable[[], keras.Model]:
    def made() -> keras.Model:
        inputs = keras.Input(shape)
        return headed(inputs, build(inputs))

    return made


def residual(x: Any) -> Any:
    first = layers.Conv2D(4, 3, padding="same", name="a", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(first))
    return layers.Add()([layers.Conv2D(4, 3, padding="same", name="b")(x), first])


def depthwise(x: Any) -> Any:
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="multiplied")(layers.Conv2D(4, 1, name="a")(x))
    x = layers.SeparableConv2D(5, 3, depth_multiplier=2, activation="relu", name="separable")(x)
    return layers.DepthwiseConv2D(2, activation="relu", name="last")(x)


def grouped(x: Any) -> Any:
    x = layers.Conv2D(8, 3, groups=4, activation="relu", name="fours")(layers.Conv2D(8, 1, name="a")(x))
    return layers.Conv2D(16, 1, groups=8, name="each")(x)


def concatenated(x: Any) -> Any:
    parts = [layers.Conv2D(n, 3, activation="relu", name=f"c{n}")(x) for n in (2, 3)]
    return layers.Concatenate()([*parts, layers.Cropping2D(1)(x)])


def narrow(x: Any) -> Any:
    # One channel at many places: behind the flattening, a copy is at as many.
    x = layers.Reshape((36,))(layers.Conv2D(1, 1, activation="relu", name="one")(x))
    return layers.Dense(4, activation="tanh", name="dense")(x)


def recurrent(x: Any) -> Any:
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both")(layers.Reshape((6, 18))(x))
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    return layers.GRU(4, name="gru")(x)


def scaled(x: Any) -> Any:
    y = kc.XnorPlusPlusScale(2)(kc.XnorPlusPlusScale(4)(layers.Conv2D(4, 3, name="a")(x)))
    return layers.ReLU()(kc.XnorPlusPlusScale(3)(layers.Conv2D(1, 1, name="b")(y)))


GRAPHS = {each.__name__: each for each in (residual, depthwise, grouped, concatenated, narrow, recurrent, scaled)}


@pytest.mark.parametrize("name", GRAPHS)
def test_the_wider_model_computes_the_same(name: str) -> None:
    keras.utils.set_random_seed(0)
    model = net(GRAPHS[name])()
    shake(model)
    wide = kc.widen(model, 1.7, function_preserving=True)
    widened = {group.name: len(group) for group in channel_graph(model).prunable}
    now = {group.name: len(group) for group in channel_graph(wide).prunable}
    assert now == {group: round(1.7 * count) for group, count in widened.items()}
    assert widened
    x = random_inputs(model, 8, seed=3)
    assert largest_difference(model, wide, x) <= 1e-5
    assert float(np.ptp(np.array(model(x)))) > 1e-2


def test_a_wide_model_for_training_from_scratch_begins_with_new_values() -> None:
    keras.utils.set_random_seed(1)
    model = chain((20, 30))
    for variable in model.weights:
        variable.assign(variable + 7.0)
    wide = kc.widen(model, 2.0)
    assert widths_of(wide) == [40, 60, 2]
    # Of Glorot's uniform distribution: within sqrt(6 / (40 + 60)), whatever the model's own values were.
    kernel = np.array(wide.get_layer("d1").kernel)
    assert 0.9 * np.sqrt(0.06) < np.abs(kernel).max() <= np.sqrt(0.06)
    assert np.all(np.array(wide.get_layer("logits").bias) == 0.0)
    np.testing.assert_array_equal(kernel, np.array(kc.widen(model, 2.0).get_layer("d1").kernel))
    assert np.any(kernel != np.array(kc.widen(model, 2.0, seed=1).get_layer("d1").kernel))
    assert np.all(np.array(model.get_layer("d0").bias) == 7.0)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [16, 10, 2]),
        ({"factor": 1.5}, [12, 8, 2]),
        ({"factor": 3.0, "filters": "d1"}, [8, 15, 2]),
        ({"factor": 3.0, "rules": [{"layers": "d1", "skip": True}]}, [24, 5, 2]),
        ({"factor": 3.0, "rules": [{"layers": "d1", "factor": 2.0}]}, [24, 10, 2]),
        ({"factor": 2.9, "round_to": 2}, [24, 14, 2]),  # 23.2 and 14.5; a group of five is rounded to single channels
    ],
)
@pytest.mark.parametrize("function_preserving", [False, True])
def test_widths(settings: dict[str, Any], expected: list[int], function_preserving: bool) -> None:
    assert widths_of(kc.widen(chain(), function_preserving=function_preserving, **settings)) == expected


@pytest.mark.parametrize("cost", ["macs", "params"])
@pytest.mark.parametrize("as_figure", [False, True])
def test_the_widest_model_within_a_budget(cost: str, as_figure: bool) -> None:
    model = chain((24, 12))
    count = ChannelGraph.macs if cost == "macs" else ChannelGraph.params
    now = count(channel_graph(model))
    wide = kc.widen(model, target={cost: 3.0 * now if as_figure else 3.0})
    assert 0.95 * 3.0 <= count(channel_graph(wide)) / now <= 3.0
    # One factor for both, to a channel or two.
    assert abs(wide.layers[0].units / 24 - wide.layers[1].units / 12) < 0.2


def test_a_measured_cost() -> None:
    model = chain((64, 64))
    wide = kc.widen(model, target={"bytes": 40_000}, function_preserving=True)
    size = len(kc.convert(wide, mode="float32").content)
    assert 0.97 * 40_000 <= size <= 40_000
    assert largest_difference(model, wide, random_inputs(model, 4, 0)) <= 1e-5


def normed() -> keras.Model:
    inputs = keras.Input((6,))
    x = layers.LayerNormalization(name="norm")(layers.Dense(4, name="normed")(inputs))
    return keras.Model(inputs, layers.Dense(2, name="logits")(layers.Dense(5, name="free")(x)))


def test_channels_that_a_norm_is_taken_over_stay_where_the_function_has_to() -> None:
    with pytest.warns(UserWarning, match="as they are: normed: norm normalizes over it$"):
        wide = kc.widen(normed(), 2.0, function_preserving=True)
    assert [wide.get_layer(name).units for name in ("normed", "free")] == [4, 10]
    wide = kc.widen(normed(), 2.0)
    assert [wide.get_layer(name).units for name in ("normed", "free")] == [8, 10]


def multiplied() -> keras.Model:
    inputs = keras.Input((6,))
    first, second = (layers.Dense(4, name=name)(inputs) for name in "ab")
    return keras.Model(inputs, layers.Dot(1, name="dot")([first, second]))


REFUSED: dict[str, tuple[Callable[[], keras.Model], dict[str, Any], str]] = {
    "a factor of one": (chain, {"factor": 1.0}, r"Expected `factor` > 1.*Received: factor=1.0"),
    "a factor that is none": (chain, {"factor": True}, "Received: factor=True"),
    "a rule's factor": (chain, {"rules": [{"layers": "d1", "factor": 0.5}]}, "for layer 'd1'.*Received: factor=0.5"),
    "both": (chain, {"factor": 2.0, "target": {"macs": 2.0}}, "Expected either `factor` or `target`"),
    "a fraction": (chain, {"target": {"macs": 0.5}}, "larger than the model.*Received: 0.5 of the MACs"),
    "noise": (chain, {"noise": -0.1}, "Expected `noise` >= 0. Received: noise=-0.1"),
    "rounding": (chain, {"round_to": 0}, "Expected `round_to` as an integer >= 1"),
    "no hidden layer": (
        lambda: keras.Sequential([keras.Input((3,)), layers.Dense(2, name="only")]),
        {},
        "channels that can grow. Received: only: an output of the model keeps its shape",
    ),
    "a scalar product": (
        multiplied,
        {"function_preserving": True},
        r"channels that can grow. Received: a(, b)?: something without weights sums over its channels",
    ),
    "in training": (
        lambda: kc.prune_low_magnitude(chain()),
        {},
        r"grow it first, then prune.*`kc.strip\(model\)`. Received: layer 'd0' with \['MagnitudePruner'\]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    build, settings, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        kc.widen(build(), **settings)


def test_a_compressed_model_grows_once_it_is_stripped() -> None:
    model = kc.cluster_weights(chain(), 4)
    plain = kc.strip(model)
    wide = kc.widen(plain, 2.0, function_preserving=True)
    assert largest_difference(model, wide, random_inputs(plain, 4, 0)) <= 1e-5
