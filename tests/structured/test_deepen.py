"""Net2DeeperNet: identity layers by hand, where they may stand, and the same function in every kind of graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from tests_structured import headed, shake

import keras_compress as kc
from keras_compress.structured.surgery import largest_difference, random_inputs


def block(x: Any, name: str, activation: Any = "relu") -> Any:
    x = layers.Conv2D(4, 3, strides=2, use_bias=False, name=name)(x)
    x = layers.BatchNormalization(scale=False, name=f"{name}_norm")(x)
    return layers.Activation(activation, name=f"{name}_act")(x)


def convolutions(activation: Any = "relu") -> keras.Model:
    inputs = keras.Input((12, 12, 2))
    x = block(block(inputs, "a", activation), "b", activation)
    return headed(inputs, layers.Conv2D(5, 2, activation="relu6", name="c")(x))


def test_kernels_are_one_in_the_middle_and_norms_undo_themselves() -> None:
    # Net2Net, section 2.3; the BatchNormalization of epsilon 1e-3: gamma = sqrt(1 + 0.001).
    deep = kc.deepen(convolutions(), ["a", "c"])
    names = [layer.name for layer in deep.layers]
    assert names[1:7] == ["a", "a_norm", "a_act", "a_deeper", "a_norm_deeper", "a_act_deeper"]
    kernel = np.array(deep.get_layer("a_deeper").kernel)
    assert kernel.shape == (3, 3, 4, 4)
    assert kernel.sum() == 4.0
    np.testing.assert_array_equal(kernel[1, 1], np.eye(4))
    gamma, beta, mean, variance = deep.get_layer("a_norm_deeper").get_weights()
    np.testing.assert_allclose(gamma, np.full(4, 1.0005), rtol=1e-4)
    assert beta.tolist() == mean.tolist() == [0.0] * 4
    assert variance.tolist() == [1.0] * 4
    even = np.array(deep.get_layer("c_deeper").kernel)
    np.testing.assert_array_equal(even[0, 0], np.eye(5))
    assert np.all(np.array(deep.get_layer("c_deeper").bias) == 0.0)


@pytest.mark.parametrize("which", ["a", ["a", "b", "c"], "class:Conv2D", "head"])
def test_the_deeper_model_computes_the_same(which: Any) -> None:
    model = convolutions()
    shake(model)
    deep = kc.deepen(model, which)
    assert len(deep.layers) > len(model.layers)
    assert largest_difference(model, deep, random_inputs(model, 8, seed=1)) <= 1e-6


def test_statistics_of_data_make_it_the_same_in_training_too() -> None:
    model = convolutions()
    shake(model)
    x = random_inputs(model, 200, seed=1)
    deep = kc.deepen(model, ["a", "b"], data=x)
    assert largest_difference(model, deep, x) <= 1e-5
    values = np.array(keras.Model(model.input, model.get_layer("a_act").output)(x)).reshape(-1, 4)
    _, beta, mean, variance = deep.get_layer("a_norm_deeper").get_weights()
    np.testing.assert_allclose(mean, values.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(variance, values.var(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(beta, mean)
    # What a batch's own statistics change is what they change in the model itself.
    new = keras.Model(deep.input, deep.get_layer("a_norm_deeper").output)
    old = keras.Model(deep.input, deep.get_layer("a_act").output)
    np.testing.assert_allclose(new(x), old(x), rtol=1e-4, atol=1e-5)
    deep.get_layer("a_norm").trainable = False
    np.testing.assert_allclose(new(x, training=True), old(x), rtol=1e-3, atol=1e-3)


def shared() -> keras.Model:
    inputs = keras.Input((6,))
    dense = layers.Dense(6, activation="relu", name="twice")
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(3, name="inside"), layers.ReLU(6.0)], name="inner")
    return keras.Model(inputs, [inner(dense(dense(inputs))), inner(inputs)])


def sequence() -> keras.Model:
    inputs = keras.Input((9, 3))
    x = keras.ops.relu(layers.Conv1D(4, 3, padding="causal", dilation_rate=2, name="causal")(inputs))
    return headed(inputs, layers.Conv1D(4, 2, groups=2, activation="relu", name="groups")(x))


@pytest.mark.parametrize(
    ("build", "which", "more"),
    [(shared, ["twice", "inner/inside"], 42 + 12), (sequence, ["causal", "groups"], 52 + 36)],
)
def test_shared_nested_and_one_dimensional_layers(build: Callable[[], keras.Model], which: Any, more: int) -> None:
    model = build()
    shake(model)
    deep = kc.deepen(model, which)
    assert deep.count_params() == model.count_params() + more
    assert largest_difference(model, deep, random_inputs(model, 4, seed=2)) <= 1e-6


@pytest.mark.parametrize("activation", ["tanh", "leaky_relu", "sigmoid", keras.ops.softmax])
def test_an_activation_that_changes_what_it_gave_is_refused(activation: Any) -> None:
    name = getattr(activation, "__name__", activation)
    with pytest.raises(ValueError, match=rf"f\(f\(x\)\) = f\(x\).*Received: layer 'b' with '{name}'"):
        kc.deepen(convolutions(activation), "b")


def test_slopes_that_are_trained_are_refused() -> None:
    inputs = keras.Input((4,))
    x = layers.PReLU(name="slopes")(layers.Dense(4, name="steep")(inputs))
    with pytest.raises(ValueError, match="Received: layer 'steep' with 'PReLU'"):
        kc.deepen(keras.Model(inputs, layers.Dense(2)(x)), "steep")


def test_what_is_no_layer_with_a_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected Dense, Conv1D.*Received: a_norm: is a BatchNormalization"):
        kc.deepen(convolutions(), ["a", "a_norm"])
    with pytest.raises(ValueError, match="matches none of"):
        kc.deepen(convolutions(), "nothing")
    with pytest.raises(ValueError, match=r"grow it first.*`kc.strip\(model\)`"):
        kc.deepen(kc.cluster_weights(convolutions(), 4), "a")


class Block(layers.Layer):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.d = layers.Dense(4, name="d")
        self.inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="e")], name="inner")

    def build(self, input_shape: Any) -> None:
        self.d.build(input_shape)
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        return self.inner(self.d(inputs))


@pytest.mark.parametrize("path", ["blk/d", "blk/inner/e"])
def test_a_layer_that_another_layer_calls_is_refused(path: str) -> None:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, Block(name="blk")(layers.Dense(4, name="a")(inputs)))
    with pytest.raises(ValueError, match=f"calls by itself.*Received: {path}: is a Dense, inside another layer"):
        kc.deepen(model, path)


BETWEEN: dict[str, list[Callable[[], Any]]] = {
    "dropout": [lambda: layers.Dropout(0.5)],
    "channels": [lambda: layers.SpatialDropout2D(0.5), lambda: layers.GaussianNoise(1.0)],
    "pooling": [lambda: layers.MaxPooling2D(2), lambda: layers.ZeroPadding2D(1)],
    "linear": [lambda: layers.Activation("linear"), lambda: layers.BatchNormalization(), layers.Identity],
}


@pytest.mark.parametrize("name", BETWEEN)
def test_the_block_stands_behind_the_activation_whatever_lies_between(name: str) -> None:
    inputs = x = keras.Input((6, 6, 2))
    for each in (lambda: layers.Conv2D(4, 3, name="c"), *BETWEEN[name], lambda: layers.ReLU(name="r")):
        x = each()(x)
    model = headed(inputs, x)
    shake(model)
    deep = kc.deepen(model, "c")
    norms = [layer.name for layer in deep.layers if isinstance(layer, layers.BatchNormalization)]
    names = [layer.name for layer in deep.layers]
    assert names[names.index("r") :] == ["r", "c_deeper", *norms[1:], "r_deeper", "flat", "head"]
    assert len(norms) == 2 * (name == "linear")
    assert largest_difference(model, deep, random_inputs(model, 4, seed=2)) <= 1e-6


@pytest.mark.parametrize(
    ("behind", "told"),
    [
        ([lambda: layers.Dropout(0.5), lambda: layers.Activation("sigmoid")], "sigmoid"),
        ([lambda: layers.GaussianNoise(0.1), lambda: layers.LeakyReLU()], "LeakyReLU"),
        ([lambda: kc.RPReLU()], "RPReLU"),
        ([layers.Softmax], "Softmax"),
    ],
)
def test_an_activation_behind_noise_is_the_activation(behind: list[Callable[[], Any]], told: str) -> None:
    inputs = keras.Input((4,))
    x = layers.Dense(4, name="steep")(inputs)
    for each in behind:
        x = each()(x)
    with pytest.raises(ValueError, match=f"Received: layer 'steep' with '{told}'"):
        kc.deepen(keras.Model(inputs, layers.Dense(2)(x)), "steep")


@pytest.mark.parametrize("between", [layers.Flatten, layers.GlobalMaxPooling1D])
def test_nothing_is_looked_through_that_the_layer_does_not_fit_behind(between: Callable[..., Any]) -> None:
    inputs = keras.Input((3, 4))
    x = layers.Dropout(0.5, name="drop")(layers.Conv1D(4, 2, name="a")(inputs))
    x = layers.ReLU(name="r")(between(name="other")(x))
    deep = kc.deepen(keras.Model(inputs, layers.Dense(2, name="b")(x)), "a")
    assert [layer.name for layer in deep.layers][1:] == ["a", "a_deeper", "drop", "other", "r", "b"]
