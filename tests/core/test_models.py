"""Kinds of Keras models that have a graph: each compressed, trained for a step, saved, loaded and stripped."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.graph.model import compressed_layers

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(8, 6)).astype(np.float32)
HALF = kc.ConstantSparsity(0.5, 0, end_step=0)


def dense(units: int = 6, **kwargs) -> layers.Dense:
    return layers.Dense(units, **kwargs)


def several_inputs_and_outputs() -> keras.Model:
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    y = layers.Concatenate(name="both")([dense(name="l")(left), dense(name="r")(right)])
    return keras.Model({"left": left, "right": right}, [dense(2, name="first")(y), dense(3, name="second")(y)])


def residuals() -> keras.Model:
    inputs = keras.Input((6,))
    y = inputs
    for index in range(2):
        z = dense(activation="relu", name=f"up{index}")(y)
        y = layers.Add(name=f"add{index}")([y, dense(name=f"down{index}")(z)])
    return keras.Model(inputs, dense(2, name="head")(y))


def shared_layer() -> keras.Model:
    inputs = keras.Input((6,))
    shared = dense(name="shared")
    return keras.Model(inputs, dense(2, name="head")(layers.Add(name="sum")([shared(inputs), shared(shared(inputs))])))


def model_called_twice() -> keras.Model:
    base = keras.Sequential([keras.Input((6,)), dense(name="d"), layers.BatchNormalization(name="n")], name="base")
    inputs = keras.Input((6,))
    return keras.Model(inputs, dense(2, name="head")(layers.Add(name="sum")([base(inputs), base(base(inputs))])))


def nested() -> keras.Model:
    model = keras.Sequential([keras.Input((6,)), dense(name="d0")], name="level0")
    for level in range(1, 4):
        inputs = keras.Input((6,), name=f"in{level}")
        model = keras.Model(inputs, dense(name=f"d{level}")(model(inputs)), name=f"level{level}")
    return model


def convolutions() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Reshape((2, 3, 1)),
            layers.Conv2D(4, 2, padding="same", name="conv"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.SeparableConv2D(3, 2, name="separable"),
            layers.Flatten(),
            dense(2, name="head"),
        ]
    )


MODELS = {
    "several inputs and outputs": (several_inputs_and_outputs, ["l", "r", "first", "second"]),
    "residuals": (residuals, ["up0", "down0", "up1", "down1", "head"]),
    "shared layer": (shared_layer, ["shared", "head"]),
    "model called twice": (model_called_twice, ["base/d", "head"]),
    "nested": (nested, ["level2/level1/level0/d0", "level2/level1/d1", "level2/d2", "d3"]),
    "convolutions": (convolutions, ["conv", "separable", "head"]),
}


def outputs(model: keras.Model, x) -> np.ndarray:
    found = np.concatenate([np.ravel(part) for part in keras.tree.flatten(model(x))])
    assert np.abs(found).max() > 0
    return found


@pytest.mark.parametrize("name", MODELS)
def test_model(name: str, tmp_path) -> None:
    make, paths = MODELS[name]
    keras.utils.set_random_seed(0)
    model = make()
    x = {"left": X, "right": X} if "several" in name else X
    made = kc.quantize_model(kc.prune_low_magnitude(model, HALF))
    assert [path for path, _ in compressed_layers(made)] == paths
    np.testing.assert_array_equal(outputs(model, x), outputs(kc.strip(model), x))
    made(x, training=True)
    for _, wrapper in compressed_layers(made):
        for slot, _ in wrapper.items():
            assert (np.array(wrapper.weight(slot.name)) == 0).mean() >= 0.5
    expected = outputs(made, x)
    np.testing.assert_allclose(outputs(kc.strip(made), x), expected, atol=1e-6)
    made.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert [path for path, _ in compressed_layers(again)] == paths
    np.testing.assert_array_equal(outputs(again, x), expected)


@pytest.mark.parametrize("nested_outputs", [False, True])
def test_outputs_are_compiled_by_name_after_loading_too(nested_outputs: bool, tmp_path) -> None:
    inputs = keras.Input((6,), name="x")
    made = [dense(2, name="first")(inputs), dense(3, name="second")(inputs)]
    model = keras.Model(inputs, {"first": made[0], "second": made[1]} if nested_outputs else made)
    made = kc.quantize_model(kc.prune_low_magnitude(model, HALF))
    loss = {"first": "mse", "second": "mae"}
    targets = {"first": X[:, :2], "second": X[:, :3]}
    made.compile("sgd", loss, run_eagerly=True)
    made.fit(X, targets, verbose=0)
    made.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert again.output_names == made.output_names == ["first", "second"]
    np.testing.assert_array_equal(outputs(again, X), outputs(made, X))
    for each in (made, again):
        each.fit(X, targets, verbose=0)
    np.testing.assert_allclose(outputs(again, X), outputs(made, X), atol=1e-6)
    plain = kc.strip(made)
    assert type(plain).__module__.startswith("keras.")


def test_a_wrapper_inside_a_sequential_that_is_wrapped_again(tmp_path) -> None:
    body = keras.Sequential([keras.Input((6,)), dense(name="d"), layers.ReLU(name="relu")], name="body")
    wrapped = kc.prune_low_magnitude(body, HALF)
    model = keras.Sequential([keras.Input((6,)), wrapped, dense(2, name="head")], name="outer")
    made = kc.cluster_weights(model, 4)
    assert {path: [type(t).__name__ for t in w.transform_list] for path, w in compressed_layers(made)} == {
        "body/d": ["MagnitudePruner", "CentroidClusterer"],
        "head": ["CentroidClusterer"],
    }
    made(X, training=True)
    made.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(outputs(keras.models.load_model(tmp_path / "m.keras"), X), outputs(made, X))
    np.testing.assert_allclose(outputs(kc.strip(made), X), outputs(made, X), atol=1e-6)


def test_a_sequential_with_a_wrapper_in_it_inside_a_wrapper(tmp_path) -> None:
    body = keras.Sequential([keras.Input((6,)), dense(name="a"), dense(name="b")], name="body")
    body = kc.prune_low_magnitude(body, HALF, filters="a")
    around = kc.Compressed(body, {"layers.1.kernel": [kc.UniformQuantizer(2)]}, slots={"layers.1.kernel": (-1,)})
    model = keras.Sequential([keras.Input((6,)), around, dense(2, name="head")])
    made = kc.quantize_model(model, activations=None, filters="head")
    made(X, training=True)
    pruner = made.layers[0].layer.layers[0].transform_list[0]
    assert pruner.sparsity() == 0.5
    plain = kc.strip(made)
    first, second = plain.layers[0].layers
    assert (np.array(first.kernel) == 0).mean() == 0.5
    assert max(len(np.unique(column)) for column in np.array(second.kernel).T) <= 3
    np.testing.assert_allclose(outputs(plain, X), outputs(made, X), atol=1e-6)
    made.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(outputs(keras.models.load_model(tmp_path / "m.keras"), X), outputs(made, X))


class Doubled(keras.Model):
    """Functional, with a training step of its own."""

    def train_step(self, data):
        return {**super().train_step(data), "mine": 7.0}


class Fixed(Doubled):
    """Functional as well, with its graph made in the constructor."""

    def __init__(self, units):
        inputs = keras.Input((6,))
        super().__init__(inputs, dense(units, name="d")(inputs))


class Chain(keras.Sequential):
    def train_step(self, data):
        return {**super().train_step(data), "mine": 7.0}


@pytest.mark.parametrize("kind", [Doubled, Chain])
def test_a_functional_or_sequential_class_of_the_users_is_kept(kind, tmp_path) -> None:
    inputs = keras.Input((6,))
    model = kind([inputs, dense(2)]) if kind is Chain else kind(inputs, dense(2)(inputs))
    made = kc.quantize_model(kc.prune_low_magnitude(model, HALF))
    assert type(made) is kind
    made.compile("sgd", "mse")
    assert made.fit(X, X[:, :2], verbose=0).history["mine"] == [7.0]
    assert type(kc.strip(made)) is (kind if kind is Doubled else kc.strip(made).__class__)
    made.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras", custom_objects={kind.__name__: kind})
    assert type(again) is kind
    np.testing.assert_array_equal(outputs(again, X), outputs(made, X))


def test_a_functional_class_with_another_constructor_says_what_it_loses() -> None:
    model = Fixed(3)
    with pytest.warns(UserWarning, match=r"Fixed 'fixed.*becomes a plain keras.Model, without its train_step: give it"):
        made = kc.prune_low_magnitude(model, HALF)
    np.testing.assert_array_equal(outputs(made, X), outputs(model, X))


def test_a_small_member_of_keras_applications() -> None:
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=3, classifier_activation=None)
    x = RANDOM.normal(size=(1, 32, 32, 3)).astype(np.float32)
    assert len(list(compressed_layers(kc.prune_low_magnitude(model, HALF)))) == 53
    made = kc.quantize_model(model, activations=None, filters="re:^block_[12]_")
    assert len(list(compressed_layers(made))) == 6
    expected = np.array(made(x))
    largest = np.abs(expected).max()
    assert 0 < np.abs(expected - np.array(model(x))).max() < 0.1 * largest
    np.testing.assert_allclose(outputs(kc.strip(made), x), np.ravel(expected), atol=1e-5 * largest)
