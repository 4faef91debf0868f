from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc

WEIGHTS = [-2.0, -1.0, -0.5, -0.0, 0.0, 0.25, 1.0, 1.5]


def built(quantizer: kc.WeightTransform, weight: list) -> tuple[kc.WeightTransform, tf.Tensor]:
    kernel = np.asarray([weight], np.float32)
    quantizer.prepare(kernel.shape, (1,))
    return quantizer, tf.constant(kernel)


def gradient(quantizer: kc.WeightTransform, weight: list) -> list[float]:
    quantizer, kernel = built(quantizer, weight)
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        y = quantizer(kernel, training=True) * 3.0
    return (tape.gradient(y, kernel)[0] / 3.0).numpy().tolist()


@pytest.mark.parametrize("name", ["SteSign", "ApproxSign", "SwishSign"])
def test_forward_is_the_sign_and_zero_is_positive(name: str) -> None:
    quantizer, kernel = built(getattr(kc, name)(), WEIGHTS)
    assert quantizer(kernel).numpy().tolist() == [[-1, -1, -1, 1, 1, 1, 1, 1]]
    found = quantizer.integer_weight(kernel)
    assert found.integers.tolist() == [[-1, -1, -1, 1, 1, 1, 1, 1]]
    assert found.scale.tolist() == [[1.0]]
    assert (found.bits, found.integers.dtype, quantizer.bits, quantizer.number_of_clusters) == (2, np.int8, 1, 2)


def test_gradient_of_ste_sign_stops_beyond_one() -> None:
    assert gradient(kc.SteSign(), WEIGHTS) == [0, 1, 1, 1, 1, 1, 1, 0]


def test_gradient_of_approx_sign_is_a_triangle() -> None:
    assert gradient(kc.ApproxSign(), WEIGHTS) == [0, 0, 1, 2, 2, 1.5, 0, 0]


@pytest.mark.parametrize("beta", [5.0, 1.0])
def test_gradient_of_swish_sign(beta: float) -> None:
    expected = [beta * (2 - beta * w * math.tanh(beta * w / 2)) / (1 + math.cosh(beta * w)) for w in WEIGHTS]
    np.testing.assert_allclose(gradient(kc.SwishSign(beta), WEIGHTS), expected, rtol=2e-5, atol=1e-6)
    assert expected[3] == beta


def test_gradient_of_swish_sign_is_the_slope_of_its_curve() -> None:
    def curve(x: float) -> float:
        sigmoid = 1 / (1 + math.exp(-5 * x))
        return 2 * sigmoid * (1 + 5 * x * (1 - sigmoid)) - 1

    for w in (-0.7, -0.1, 0.3, 0.9):
        slope = (curve(w + 1e-5) - curve(w - 1e-5)) / 2e-5
        assert gradient(kc.SwishSign(), [w])[0] == pytest.approx(slope, rel=1e-4)


def test_gradient_of_swish_sign_stays_finite_far_out() -> None:
    np.testing.assert_allclose(gradient(kc.SwishSign(), [-1e6, 100.0, 3e38]), [0, 0, 0], atol=1e-20)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_bad_beta(beta: float) -> None:
    with pytest.raises(ValueError, match="Expected `beta` above 0. Received: beta="):
        kc.SwishSign(beta)


def test_has_no_arguments_that_mean_nothing() -> None:
    assert set(kc.SteSign(name="s").get_config()) == {"name", "trainable"}
    with pytest.raises(TypeError, match="bits"):
        kc.SteSign(bits=2)


def test_cannot_stand_behind_a_pruner() -> None:
    layer = layers.Dense(4)
    layer.build((None, 4))
    with pytest.raises(ValueError, match=r"SteSign after MagnitudePruner, whose 'zeros'"):
        kc.Compressed(layer, {"kernel": [kc.MagnitudePruner(kc.ConstantSparsity(0.5, 0)), kc.SteSign()]})


def test_one_scale_behind_codebooks_of_channels() -> None:
    layer = layers.Dense(4)
    layer.build((None, 4))
    quantizer = kc.SteSign()
    kc.Compressed(layer, {"kernel": [kc.CentroidClusterer(4, cluster_per_channel=True), quantizer]})
    assert quantizer.integer_weight(layer.kernel.value).scale.shape == (1, 1)
