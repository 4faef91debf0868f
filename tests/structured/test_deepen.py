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
