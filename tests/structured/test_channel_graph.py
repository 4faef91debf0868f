"""Which indices of which weights belong together, by literal numbers; models of every kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import Input, layers, ops
from tests_structured import half, headed, shake

import keras_compress as kc
from keras_compress.structured import surgery
from keras_compress.structured.channel_graph import ChannelGroup
from keras_compress.structured.dependency import channel_graph
from keras_compress.structured.prune import removed_channels


def flattened() -> keras.Model:
    x = Input((2, 2, 1))
    return headed(x, layers.Conv2D(3, 1, name="a")(x))


def concatenated() -> keras.Model:
    x = Input((2, 2, 1))
    a, b = layers.Conv2D(2, 1, name="a")(x), layers.Conv2D(3, 1, name="b")(x)
    return headed(x, layers.GlobalMaxPooling2D()(layers.Concatenate()([a, x, b])))


def in_groups() -> keras.Model:
    x = Input((2, 2, 1))
    y = layers.Conv2D(4, 1, groups=2, name="b")(layers.Conv2D(4, 1, name="a")(x))
    return headed(x, layers.GlobalMaxPooling2D()(y))


def multiplied() -> keras.Model:
    x = Input((3, 3, 1))
    y = layers.DepthwiseConv2D(3, depth_multiplier=2, name="b")(layers.Conv2D(3, 1, name="a")(x))
    return headed(x, y)


def separable() -> keras.Model:
    x = Input((2, 2, 1))
    y = layers.SeparableConv2D(2, 1, depth_multiplier=2, name="b")(layers.Conv2D(3, 1, name="a")(x))
    return headed(x, layers.GlobalMaxPooling2D()(y))


def transposed() -> keras.Model:
    x = Input((2, 2, 1))
    y = layers.Conv2DTranspose(3, 2, name="b")(layers.Conv2D(2, 1, name="a")(x))
    return headed(x, layers.GlobalMaxPooling2D()(y))


def gates() -> keras.Model:
    x = Input((4, 2))
    return headed(x, layers.GRU(3, name="a")(x))


def shuffled() -> keras.Model:
    x = Input((2, 2, 1))
    y = layers.Reshape((2, 2, 2, 3))(layers.Conv2D(6, 1, name="a")(x))
    y = layers.Reshape((2, 2, 6))(layers.Permute((1, 2, 4, 3))(y))
    return headed(x, layers.GlobalMaxPooling2D()(y))


def broadcast() -> keras.Model:
    x = Input((2, 2, 1))
    y = layers.Conv2D(4, 1, name="a")(x)
    gate = layers.Dense(4, name="b")(layers.GlobalAveragePooling2D()(y))
    return headed(x, layers.GlobalMaxPooling2D()(layers.Multiply()([y, layers.Reshape((1, 1, 4))(gate)])))


# `layer.weight`, the axis, and the indices that are left on it.
@pytest.mark.parametrize(
    ("build", "channels", "left"),
    [
        (flattened, {"a": [1]}, {("head", "kernel", 0): [0, 2, 3, 5, 6, 8, 9, 11]}),
        (concatenated, {"a": [0], "b": [1]}, {("head", "kernel", 0): [1, 2, 3, 5]}),
        (
            in_groups,
            {"a": [0]},
            {("a", "kernel", 3): [1, 3], ("b", "kernel", 2): [1], ("b", "kernel", 3): [0, 1, 2, 3]},
        ),
        (in_groups, {"b": [3]}, {("b", "kernel", 3): [0, 2], ("b", "bias", 0): [0, 2], ("head", "kernel", 0): [0, 2]}),
        (multiplied, {"a": [1]}, {("b", "kernel", 2): [0, 2], ("b", "bias", 0): [0, 1, 4, 5]}),
        (
            separable,
            {"a": [2]},
            {("b", "depthwise_kernel", 2): [0, 1], ("b", "pointwise_kernel", 2): [0, 1, 2, 3]},
        ),
        (
            transposed,
            {"a": [0], "b": [2]},
            {("b", "kernel", 3): [1], ("b", "kernel", 2): [0, 1], ("b", "bias", 0): [0, 1]},
        ),
        (
            gates,
            {"a": [1]},
            {
                ("a", "recurrent_kernel", 0): [0, 2],
                ("a", "kernel", 1): [0, 2, 3, 5, 6, 8],
                ("a", "bias", 1): [0, 2, 3, 5, 6, 8],
            },
        ),
        # Channels 1 and 4 lie at the same place of both rows; transposed, they are neighbours.
        (shuffled, {"a": [1]}, {("a", "kernel", 3): [0, 2, 3, 5], ("head", "kernel", 0): [0, 1, 4, 5]}),
        (
            broadcast,
            {"a": [3]},
            {("b", "kernel", 0): [0, 1, 2], ("b", "kernel", 1): [0, 1, 2], ("head", "kernel", 0): [0, 1, 2]},
        ),
    ],
)
def test_indices_that_are_left(
    build: Callable[[], keras.Model], channels: dict[str, list[int]], left: dict[tuple[str, str, int], list[int]]
) -> None:
    graph = channel_graph(build())
    removed = removed_channels(graph, channels)
    cut = surgery.cut(graph, removed)
    for (layer, name, axis), expected in left.items():
        (variable,) = [v for v in graph.model.get_layer(layer).variables if v.name == name]
        ids = graph.axes_of(variable)[axis]
        np.testing.assert_array_equal(graph.kept(ids, removed), expected)
        (new,) = [v for v in cut.get_layer(layer).variables if v.name == name]
        assert new.shape[axis] == len(expected)
    assert surgery.largest_difference(surgery.mask(graph, removed), cut, surgery.random_inputs(cut, 2, 0)) <= 1e-5


def test_groups_are_units_of_the_same_makers() -> None:
    x = Input((4,))
    a, b = layers.Dense(3, name="a")(x), layers.Dense(3, name="b")(x)
    c = layers.Dense(2, name="c")(layers.Concatenate()([a + b, a]))
    graph = channel_graph(keras.Model(x, layers.Dense(1, name="d")(c)))
    assert [(group.layers, len(group), group.reason is None) for group in graph.groups] == [
        (("a", "b"), 3, True),
        (("c",), 2, True),
        (("d",), 1, False),
    ]
    assert graph.macs() == 4 * 3 + 4 * 3 + 6 * 2 + 2 * 1
    assert graph.params() == 15 + 15 + 14 + 3


class TestKinds:
    """Nested, shared, called twice, many inputs and outputs, Sequential: what is cut is what is masked."""

    def _exact(self, model: keras.Model, groups: dict[str, int], macs: tuple[int, int]) -> keras.Model:
        shake(model)
        graph = channel_graph(model)
        removed = half(graph)
        cut = surgery.cut(graph, removed)
        assert {group.name: len(group) for group in graph.prunable} == groups
        assert (graph.macs(), graph.macs(removed)) == macs
        assert graph.params(removed) == cut.count_params()
        x = surgery.random_inputs(model, 2, 0)
        assert surgery.largest_difference(surgery.mask(graph, removed), cut, x) <= 1e-5
        assert surgery.largest_difference(model, cut, x) > 1e-3
        assert type(cut) is type(model)
        names = [[each.name for each in m.layers if not isinstance(each, layers.InputLayer)] for m in (model, cut)]
        assert names[0] == names[1]
        return cut

    def test_nested_and_called_twice(self) -> None:
        i = Input((4,))
        inside = keras.Model(
            i, layers.Dense(6, name="out")(layers.Dense(8, name="in", activation="relu")(i)), name="net"
        )
        x, y = Input((3,)), Input((5,))
        a, b = inside(layers.Dense(4, name="a")(x)), inside(layers.Dense(4, name="b")(y))
        model = keras.Model([x, y], layers.Dense(2, name="c")(layers.Concatenate()([a, b])))
        groups = {"b": 4, "net/in": 8, "net/out": 6}
        cut = self._exact(model, groups, (12 + 20 + 2 * (32 + 48) + 24, 6 + 10 + 2 * (8 + 12) + 12))
        assert cut.get_layer("net").input_shape == (None, 2)

    def test_a_shared_layer(self) -> None:
        shared = layers.Dense(6, name="shared", activation="relu")
        x = Input((4,))
        y = shared(layers.Dense(4, name="a")(x)) + shared(layers.Dense(4, name="b")(x))
        model = keras.Model(x, layers.Dense(2, name="c")(y))
        self._exact(model, {"b": 4, "shared": 6}, (16 + 16 + 48 + 12, 8 + 8 + 12 + 6))

    def test_a_layer_that_reads_channels_and_an_input_keeps_them(self) -> None:
        shared = layers.Dense(4, name="shared")
        x = Input((4,))
        graph = channel_graph(headed(x, shared(x) + shared(layers.Dense(4, name="a")(x))))
        reasons = {group.name: str(group.reason) for group in graph.frozen}
        assert "shared is also called on values of fixed width" in reasons["a"]

    def test_many_inputs_and_outputs(self) -> None:
        x = {"left": Input((4,), name="left"), "right": Input((3,), name="right")}
        a, b = layers.Dense(4, name="a")(x["left"]), layers.Dense(6, name="b")(x["right"])
        out = {"one": layers.Dense(2, name="c")(layers.Concatenate()([a, b])), "two": a}
        cut = self._exact(keras.Model(x, out), {"b": 6}, (16 + 18 + 20, 16 + 9 + 14))
        made = cut(surgery.random_inputs(cut, 2, 0))
        assert {name: tuple(value.shape) for name, value in made.items()} == {"one": (2, 2), "two": (2, 4)}

    def test_sequential(self) -> None:
        named = [layers.Dense(4, name="a"), layers.BatchNormalization(name="n"), layers.Dense(2, name="b")]
        self._exact(keras.Sequential([Input((3,)), *named], name="net"), {"a": 4}, (12 + 8, 6 + 4))


class Block(layers.Layer):
    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.wide, self.narrow = layers.Dense(2 * units, name="wide"), layers.Dense(units, name="narrow")
        self.drop = layers.Dropout(0.5, name="drop")

    def build(self, shape: Any) -> None:
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], 2 * self.units))

    def call(self, inputs: Any, training: bool = False) -> Any:
        return inputs + self.narrow(self.drop(ops.relu(self.wide(inputs)), training=training))


class Factor(layers.Layer):
    def build(self, shape: Any) -> None:
        self.factor = self.add_weight(shape=(shape[-1],), initializer="ones", name="factor")

    def call(self, inputs: Any) -> Any:
        return inputs * self.factor


class Net(keras.Model):
    def __init__(self, *more: layers.Layer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stem, self.blocks, self.head = (
            layers.Dense(4, name="stem"),
            [Block(4), Block(4)],
            layers.Dense(2, name="head"),
        )
        self.more = list(more)

    def call(self, inputs: Any) -> Any:
        x = self.stem(inputs)
        for block in [*self.blocks, *self.more]:
            x = block(x)
        return self.head(x)


class TestSubclassed:
    def test_it_becomes_a_functional_model(self) -> None:
        model = Net()
        x = np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
        expected = model(x)
        graph = channel_graph(model)
        np.testing.assert_allclose(graph.model(x), expected, rtol=1e-6)
        assert {group.name: len(group) for group in graph.prunable} == {"stem": 4, "block_wide": 8, "block_1_wide": 8}
        removed = half(graph)
        cut = surgery.cut(graph, removed)
        assert surgery.largest_difference(surgery.mask(graph, removed), cut, x) <= 1e-5
        assert cut.count_params() == graph.params(removed) == (5 * 2 + 2) + 2 * (2 * 4 + 4 + 4 * 2 + 2) + (2 * 2 + 2)
        assert np.any(cut(x, training=True) != cut(x, training=True))  # the dropout knows that it trains

    def test_a_layer_with_weights_of_its_own_stays_and_is_listed(self) -> None:
        model = Net(Factor(name="factor"))
        model(np.ones((2, 5), "float32"))
        graph = channel_graph(model)
        reasons = {group.name: (len(group), str(group.reason)) for group in graph.frozen}
        assert reasons["factor"] == (0, "factor is a Factor, for which there is no channel rule")
        assert {group.name for group in graph.prunable} == {"block_wide", "block_1_wide"}

    @pytest.mark.parametrize("kind", ["tensorflow", "tied"])
    def test_what_cannot_be_traced_is_refused_with_the_cure(self, kind: str) -> None:
        import tensorflow as tf

        class Odd(keras.Model):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.last = layers.Dense(5), layers.Dense(5)

            def call(self, inputs: Any) -> Any:
                x = self.last(self.first(inputs))
                if kind == "tensorflow":
                    return tf.nn.relu(x)
                return ops.matmul(x, ops.transpose(self.first.kernel))

        model = Odd()
        model(np.ones((2, 5), "float32"))
        with pytest.raises(ValueError, match=r"`keras.ops` in place of `tf`.*Received: Odd"):
            channel_graph(model)

    def test_a_model_that_knows_no_shapes_is_refused(self) -> None:
        model = Net()
        model(np.ones((2, 5), "float32"))
        model._build_shapes_dict = None
        with pytest.raises(ValueError, match="call it once on data"):
            channel_graph(model)


def test_summary() -> None:
    graph = channel_graph(concatenated())
    removed = removed_channels(graph, {"b": [1]})
    assert graph.summary(removed) == "\n".join(
        [
            "group  channels  layers  has to stay, as",
            "-----  --------  ------  --------------------------------------",
            "a      2 -> 2    a",
            "b      3 -> 2    b",
            "head   3 -> 3    head    an output of the model keeps its shape",
            "",
            f"MACs: {4 * 2 + 4 * 3 + 18} -> {4 * 2 + 4 * 2 + 15}",
            f"parameters: {4 + 6 + 21} -> {4 + 4 + 18}",
        ]
    )
    graph.groups.append(ChannelGroup("own", ("own",), np.zeros(0, np.int64), "it is mine"))
    assert "own    ?         own     it is mine" in graph.summary()


def test_prune_channels_takes_a_subclassed_model() -> None:
    model = Net()
    model(np.ones((2, 5), "float32"))
    pruned = kc.prune_channels(model, 0.5, round_to=1)
    assert isinstance(pruned, keras.Model)
    assert pruned.get_layer("block_wide").units == 4
