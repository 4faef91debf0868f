"""Subclassed models: copies of the same class with wrappers at their attributes."""

from __future__ import annotations

import collections
import functools
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_compress as kc
from keras_compress.graph.model import candidates, compressed_layers

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(8, 6)).astype(np.float32)
Y = RANDOM.normal(size=(8, 2)).astype(np.float32)
HALF = kc.ConstantSparsity(0.5, 0, end_step=0)
Pair = collections.namedtuple("Pair", "left right")


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    """A composite layer without a `build`: Keras builds it on its first call."""

    def __init__(self, units: int = 6, **kwargs) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.first = layers.Dense(units, activation="relu")
        self._second = layers.Dense(units)

    def call(self, x):
        return x + self._second(self.first(x))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests")
class Net(keras.Model):
    """Sub-layers in an attribute, a list, a tuple, a named tuple, a dict, nested lists, a graph; its own train_step."""

    def __init__(self, blocks: int = 2, **kwargs):
        super().__init__(**kwargs)
        self.stem = layers.Dense(6, name="stem")
        self.blocks = [Block() for _ in range(blocks)]
        self.pair = (layers.Dense(6), layers.LayerNormalization())
        self.named = Pair(layers.Dense(6), layers.ReLU())
        self.by_name = {"a": layers.Dense(6), "b": [[layers.Dense(6)], layers.Dropout(0.0)]}
        self.base = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="d"), layers.ReLU(name="r")])
        self.head = layers.Dense(2)
        self.again = self.stem
        self.steps = 0
        self.seen = keras.metrics.Mean(name="seen")

    def call(self, x, training=False):
        x = self.again(self.stem(x))
        for block in self.blocks:
            x = block(x)
        x = self.pair[1](self.pair[0](x))
        x = self.named.right(self.named.left(x))
        x = self.by_name["a"](x) + self.by_name["b"][1](self.by_name["b"][0][0](x), training=training)
        return self.head(self.base(x))

    def train_step(self, data):
        self.steps += 1
        logs = super().train_step(data)
        self.seen.update_state(1.0)
        return {**logs, "seen": self.seen.result()}


PATHS = [
    "stem",
    "blocks/0/first",
    "blocks/0/_second",
    "blocks/1/first",
    "blocks/1/_second",
    "pair/0",
    "named/0",
    "by_name/a",
    "by_name/b/0/0",
    "base/d",
    "head",
]


def net() -> Net:
    keras.utils.set_random_seed(1)
    model = Net()
    model(X)
    return model


def full(model: keras.Model, run_eagerly: bool = True) -> keras.Model:
    """Pruned, with integer weights, and trained for two steps."""
    made = kc.quantize_model(kc.prune_low_magnitude(model, HALF), activations=None)
    made.compile("sgd", "mse", run_eagerly=run_eagerly)
    made.fit(X, Y, batch_size=4, verbose=0)
    return made


def outputs(model: keras.Model, x=X) -> np.ndarray:
    found = np.array(model(x))
    assert np.abs(found).max() > 0
    return found


def test_every_place_of_a_sub_layer_is_found_and_wrapped() -> None:
    model = net()
    assert [path for path, _ in candidates(model)] == PATHS
    made = kc.prune_low_magnitude(model, HALF)
    assert isinstance(made, Net)
    assert [path for path, _ in compressed_layers(made)] == PATHS
    assert isinstance(made.by_name["b"][0][0], kc.Compressed)
    assert isinstance(made.named, Pair)
    assert made.again is made.stem
    np.testing.assert_array_equal(outputs(made), outputs(model))


def test_the_original_is_untouched() -> None:
    model = net()
    before = [np.array(v) for v in model.variables]
    made = full(model)
    assert not list(compressed_layers(model))
    assert type(model) is Net
    assert not {id(v) for v in model.variables} & {id(v) for v in made.variables}
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, np.array(variable))


def test_names_variables_and_trainable_are_kept() -> None:
    model = net()
    model.blocks[0].trainable = False
    model.head.trainable = False
    made = kc.prune_low_magnitude(model, HALF)
    assert made.name == model.name
    assert [layer.name for layer in made.layers] == [layer.name for layer in model.layers]
    assert len(made.trainable_variables) == len(model.trainable_variables) == 18
    shapes = [tuple(v.shape) for v in made.trainable_variables]
    assert shapes == [tuple(v.shape) for v in model.trainable_variables]


def test_training_uses_the_users_train_step_and_reaches_what_was_asked() -> None:
    made = kc.quantize_model(kc.cluster_weights(kc.prune_low_magnitude(net(), HALF), 4), activations=None)
    made.compile("adam", "mse", run_eagerly=True)
    history = made.fit(X, Y, batch_size=4, epochs=2, verbose=0).history
    assert made.steps == 4
    assert history["seen"] == [1.0, 1.0]
    assert history["loss"][1] < history["loss"][0]
    for path, wrapper in compressed_layers(made):
        weight = np.array(wrapper.weight("kernel"))
        assert (weight == 0).mean() >= 0.5, path
        assert 2 <= len(np.unique(weight)) <= 4, path


def test_strip_gives_the_plain_class_with_the_same_outputs(tmp_path) -> None:
    made = full(net())
    plain = kc.strip(made)
    assert type(plain) is Net
    assert [type(block) for block in plain.blocks] == [Block, Block]
    assert not list(compressed_layers(plain))
    np.testing.assert_array_equal(outputs(plain), outputs(made))
    assert (np.array(plain.blocks[1]._second.kernel) == 0).mean() >= 0.5
    plain.save(tmp_path / "plain.keras")
    with open(tmp_path / "plain.keras", "rb") as file:
        assert b"keras_compress" not in file.read()
    np.testing.assert_array_equal(outputs(keras.models.load_model(tmp_path / "plain.keras")), outputs(made))


def test_keras_files_round_trip_and_training_goes_on(tmp_path) -> None:
    made = full(net(), run_eagerly=False)
    made.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert isinstance(again, Net)
    assert [path for path, _ in compressed_layers(again)] == PATHS
    assert again.again is again.stem
    np.testing.assert_array_equal(outputs(again), outputs(made))
    for model in (made, again):
        model.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    np.testing.assert_allclose(outputs(again), outputs(made), atol=1e-6)
    again.save(tmp_path / "again.keras")
    np.testing.assert_array_equal(outputs(keras.models.load_model(tmp_path / "again.keras")), outputs(again))


def test_a_class_that_has_changed_since_it_was_saved_is_refused(tmp_path, monkeypatch) -> None:
    made = kc.quantize_model(net(), activations=None, filters="blocks/1/first")
    made.save(tmp_path / "m.keras")
    before = Net.__init__

    def shorter(self, blocks=2, **kwargs):
        before(self, 1, **kwargs)

    monkeypatch.setattr(Net, "__init__", shorter)
    match = "Expected Net 'net.*' with its sub-layers where they were when it was saved. Received: no .*first in"
    with pytest.raises(ValueError, match=match):
        keras.models.load_model(tmp_path / "m.keras")


def test_weight_files_round_trip(tmp_path) -> None:
    made = full(net())
    made.save_weights(tmp_path / "m.weights.h5")
    again = kc.quantize_model(kc.prune_low_magnitude(net(), HALF), activations=None)
    assert np.abs(outputs(again) - outputs(made)).max() > 1e-3
    again.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(outputs(again), outputs(made))


def test_rules_select_by_path_expression_class_and_name() -> None:
    model = net()
    for filters, expected in (
        ("blocks/1/first", ["blocks/1/first"]),
        ("re:^blocks/.*/_second", ["blocks/0/_second", "blocks/1/_second"]),
        (["stem", "base/d"], ["stem", "base/d"]),
        ("last", ["head"]),
        (model.head.name, ["head"]),
        (layers.Dense, PATHS),
    ):
        made = kc.prune_low_magnitude(model, HALF, filters=filters)
        assert [path for path, _ in compressed_layers(made)] == expected
        np.testing.assert_array_equal(outputs(made), outputs(model))
    made = kc.prune_low_magnitude(model, HALF, rules=[{"layers": "re:blocks", "skip": True}])
    assert len(list(compressed_layers(made))) == len(PATHS) - 4


def test_global_pruning() -> None:
    made = kc.prune_low_magnitude(net(), HALF, scope="global")
    made(X, training=True)
    zeros = [float((np.array(w.weight("kernel")) == 0).mean()) for _, w in compressed_layers(made)]
    sizes = [np.array(w.weight("kernel")).size for _, w in compressed_layers(made)]
    assert abs(np.average(zeros, weights=sizes) - 0.5) < 0.01
    assert max(zeros) - min(zeros) > 0.02


def test_summary_and_tensorboard(tmp_path) -> None:
    made = full(net())
    found = kc.summary(made, print_fn=lambda text: None)
    assert [row.path for row in found.rows] == PATHS
    assert {row.weight_bits for row in found.rows} == {8}
    assert "blocks/0/_second" in str(found)
    assert [row.path for row in kc.summary(net(), print_fn=lambda text: None).rows] == PATHS
    made.fit(X, Y, batch_size=4, verbose=0, callbacks=[kc.TensorBoardSummaries(tmp_path)])
    assert list(tmp_path.rglob("events*"))


def test_quantize_model_says_that_activations_have_no_place() -> None:
    with pytest.warns(UserWarning, match="Activations inside 'net.*are not quantized while it trains") as caught:
        made = kc.quantize_model(net())
    assert len(caught) == 1
    assert [path for path, _ in compressed_layers(made)] == PATHS
    assert {layer.layer.__class__.__name__ for _, layer in compressed_layers(made)} == {"Dense"}


def test_recipes() -> None:
    made = kc.compress(net(), "cluster")
    assert [path for path, _ in compressed_layers(made)] == PATHS


def test_fit_does_not_tell_a_model_without_a_training_argument_that_it_trains() -> None:
    """So it is in Keras: Dropout does nothing there either."""

    class Untold(keras.Model):
        def __init__(self):
            super().__init__(name="untold")
            self.dense = layers.Dense(4)

        def call(self, x):
            return self.dense(x)

    model = Untold()
    model(X)
    with pytest.warns(
        UserWarning, match="`fit` does not tell Untold 'untold' .* MagnitudePruner will not begin. Write"
    ):
        made = kc.prune_low_magnitude(model, HALF)
    made.compile("sgd", "mse")
    made.fit(X, X[:, :4], verbose=0)
    assert made.dense.transform_list[0].sparsity() == 0
    made(X, training=True)
    assert made.dense.transform_list[0].sparsity() == 0.5
    kc.quantize_model(model, activations=None)  # has nothing to count, and says nothing


def test_a_call_may_read_its_sub_layers() -> None:
    """A tied weight is the one that the layer sees, with its gradient."""

    class Tied(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(4, use_bias=False)

        def call(self, x, training=False):
            y = self.dense(x)
            return ops.matmul(y, ops.transpose(self.dense.kernel)) / self.dense.units

    model = Tied()
    model(X)
    made = kc.prune_low_magnitude(model, HALF)
    np.testing.assert_allclose(outputs(made), outputs(model), atol=1e-6)
    made.compile("sgd", "mse")
    made.fit(X, X, batch_size=8, verbose=0)
    weight = np.array(made.dense.weight("kernel"))
    assert (weight == 0).sum() == 12
    np.testing.assert_allclose(outputs(made), X @ weight @ weight.T / 4, atol=1e-5)
    with pytest.raises(AttributeError, match="nothing"):
        made.dense.nothing  # noqa: B018


# What cannot be done


class Closed(keras.Model):
    """Its constructor's argument is in no configuration."""

    def __init__(self, units, activation):
        super().__init__(name="closed")
        self.dense = layers.Dense(units, activation=activation)

    def call(self, x, training=False):
        return self.dense(x)


class Two(keras.Model):
    """Two inputs, and no `build`: Keras records the shape of the first alone."""

    def __init__(self):
        super().__init__(name="two")
        self.dense = layers.Dense(3)

    def call(self, left, right, training=False):
        return self.dense(left) + right


def test_a_model_that_its_configuration_does_not_make_is_refused_with_the_cure() -> None:
    model = Closed(3, keras.ops.relu)
    model(X)
    match = (
        r"Expected Closed to be made again.*every argument of the constructor.*"
        r"Received: Closed 'closed': NotImplementedError: Object Closed"
    )
    for entry in (kc.prune_low_magnitude, kc.cluster_weights, kc.quantize_model, kc.strip):
        with pytest.raises(ValueError, match=match):
            entry(model)
    assert type(model.dense) is layers.Dense


def test_several_inputs_without_a_build_are_refused_with_the_cure() -> None:
    model = Two()
    model(X, X[:, :3])
    with pytest.raises(ValueError, match="write a `build` that builds them. Received: Two 'two'"):
        kc.prune_low_magnitude(model)


def test_several_inputs_with_a_build() -> None:
    class Built(Two):
        def build(self, left_shape, right_shape):
            self.dense.build(left_shape)

    model = Built()
    model(X, X[:, :3])
    made = kc.prune_low_magnitude(model, HALF)
    np.testing.assert_array_equal(np.array(made(X, X[:, :3])), np.array(model(X, X[:, :3])))
    assert [path for path, _ in compressed_layers(made)] == ["dense"]


def test_inputs_in_a_dictionary() -> None:
    class Named(keras.Model):
        def __init__(self):
            super().__init__()
            self.a, self.b = layers.Dense(3), layers.Dense(3)

        def call(self, inputs, training=False):
            return {"sum": self.a(inputs["x"]) + self.b(inputs["y"]), "raw": inputs["x"]}

    model = Named()
    data = {"x": X, "y": X[:, :4]}
    model(data)
    made = full_of(model, data)
    np.testing.assert_array_equal(np.array(kc.strip(made)(data)["sum"]), np.array(made(data)["sum"]))


def full_of(model: keras.Model, data) -> keras.Model:
    made = kc.quantize_model(kc.prune_low_magnitude(model, HALF), activations=None)
    made(data, training=True)
    assert list(compressed_layers(made))
    return made


def test_layers_that_cannot_be_replaced_are_listed() -> None:
    class Odd(keras.Model):
        def __init__(self):
            super().__init__(name="odd")
            self.dense = layers.Dense(3)
            self.set = {layers.Dense(3, name="in_a_set")}

        def build(self, shape):
            self.own = self.add_weight(shape=(3, 3))
            self.dense.build(shape)
            [layer.build((None, 3)) for layer in self.set]
            self.built = True

        def call(self, x, training=False):
            return next(iter(self.set))(self.dense(x)) @ self.own

    model = Odd()
    model(X)
    with pytest.warns(
        UserWarning, match="in_a_set: it is held where it cannot be .*; odd: weights of the model itself"
    ):
        made = kc.prune_low_magnitude(model, HALF)
    assert [path for path, _ in compressed_layers(made)] == ["dense"]
    np.testing.assert_array_equal(outputs(made), outputs(model))
    with pytest.raises(ValueError, match=r"strict=True\). Received: in_a_set"):
        kc.prune_low_magnitude(model, HALF, strict=True)


def test_mixed_precision_policy_that_is_in_no_configuration_is_refused() -> None:
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = net()
        assert outputs(kc.prune_low_magnitude(model, HALF)).dtype == np.float16
    finally:
        keras.mixed_precision.set_global_policy("float32")
    with pytest.raises(ValueError, match="dtype 'float32' instead of 'mixed_float16'"):
        kc.prune_low_magnitude(model, HALF)


def test_embeddings_take_integers() -> None:
    class Words(keras.Model):
        def __init__(self):
            super().__init__()
            self.embedding = layers.Embedding(7, 4)
            self.head = layers.Dense(2)

        def call(self, x, training=False):
            return self.head(ops.mean(self.embedding(ops.bitwise_and(x, 7)), axis=1))

    model = Words()
    data = np.array([[1, 2, 3], [4, 5, 6]])
    model(data)
    made = kc.prune_low_magnitude(model, HALF)
    np.testing.assert_array_equal(np.array(made(data)), np.array(model(data)))


@keras.saving.register_keras_serializable("tests")
class Talking(keras.Model):
    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        warnings.warn("a model of last year", UserWarning, stacklevel=2)
        self.dense = layers.Dense(3)

    def call(self, x, training=False):
        return self.dense(x)


def test_warnings_of_a_users_constructor_are_heard() -> None:
    with pytest.warns(UserWarning, match="last year"):
        model = Talking()
    model(X)
    with pytest.warns(UserWarning, match="last year"):
        kc.prune_low_magnitude(model, HALF)


def one_after_the_other(steps: list, x):
    for step in steps:
        x = step(x)
    return x


@keras.saving.register_keras_serializable("tests")
class HandsOn(keras.Model):
    """Its constructor gives its layers to what is no attribute of it, which runs them."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.block, self.dense = Block(), layers.Dense(3)
        self._steps = functools.partial(one_after_the_other, [self.block, self.dense])

    def call(self, x, training=False):
        return self._steps(x)


def test_layers_that_a_constructor_hands_on_are_those_at_its_attributes() -> None:
    model = HandsOn()
    model(X)
    made = kc.prune_low_magnitude(model, HALF, filters="re:block/.*")
    assert isinstance(made.block.first, kc.Compressed)
    assert [each is at for each, at in zip(made._steps.args[0], (made.block, made.dense))] == [True, True]
    np.testing.assert_array_equal(np.array(made(X)), np.array(model(X)))
    assert made.dense is not model.dense
