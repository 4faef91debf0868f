"""Separable and transposed convolutions; those without a kernel are refused by the operator that is missing."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc


@pytest.mark.parametrize(
    ("layer", "shape", "kinds"),
    [
        (lambda: layers.SeparableConv1D(4, 3, depth_multiplier=2), (8, 3), ["DepthwiseConv1D", "Conv1D"]),
        (
            lambda: layers.SeparableConv2D(4, 3, strides=2, padding="same", activation="relu"),
            (8, 8, 3),
            ["DepthwiseConv2D", "Conv2D", "Activation"],
        ),
        (
            lambda: layers.Conv1DTranspose(4, 3, strides=2, padding="same", activation="tanh"),
            (6, 3),
            ["Reshape", "Conv2DTranspose", "Reshape", "Activation"],
        ),
        (
            lambda: layers.Conv1D(1, 3, padding="causal", dilation_rate=2, activation="relu", bias_initializer="ones"),
            (8, 3),
            ["Conv1D"],
        ),
    ],
)
def test_the_same_function(bench, layer, shape, kinds):
    assert bench.kinds(bench.same(bench.model(lambda x: layer()(x), shape))) == kinds


def test_one_filter_with_a_bias_has_an_integer_kernel():
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(64, 6, 3)).astype(np.float32)
    layer = layers.Conv1D(1, 3, bias_initializer="ones")
    model = keras.Sequential([keras.Input((6, 3)), layer])
    artifact = kc.convert(model, representative_dataset=x)
    kernel = np.array(layer.kernel)[..., 0]
    expected = np.array([[(each[i : i + 3] * kernel).sum() + 1.0 for i in range(4)] for each in x[:4]])[..., None]
    frozen = kc.freeze(model, x)
    np.testing.assert_allclose(frozen.predict(x[:4], verbose=0), expected, atol=0.05 * np.abs(expected).max())
    assert kc.verify(artifact, model, x[:4]).ok


@pytest.mark.parametrize("mode", ["int8", "16x8", "dynamic"])
@pytest.mark.parametrize(
    ("layer", "op"),
    [
        (lambda: layers.Conv3D(2, 2), "CONV_3D"),
        (lambda: layers.Conv3DTranspose(2, 2), "CONV_3D_TRANSPOSE"),
    ],
)
def test_refused_by_the_operator_and_the_mode(bench, layer, op, mode):
    model = bench.model(lambda x: layer()(x), (3, 4, 4, 2))
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4, 2)).astype(np.float32)
    with pytest.raises(ValueError, match=f"for {op} has no {mode} kernel"):
        kc.convert(model, mode=mode, representative_dataset=x)
