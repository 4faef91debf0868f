"""A BatchNormalization behind a layer that is taken apart goes into the last part, in trained models too."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.graph.model import positive_gammas

IMAGE, SEQUENCE = (8, 8, 4), (6, 5)
LAYERS = {
    "separable": (IMAGE, lambda: layers.SeparableConv2D(6, 3, use_bias=False)),
    "separable, a bias, two channels each": (IMAGE, lambda: layers.SeparableConv2D(6, 3, depth_multiplier=2)),
    "separable over time": (SEQUENCE, lambda: layers.SeparableConv1D(6, 3)),
    "dense at each time": (SEQUENCE, lambda: layers.TimeDistributed(layers.Dense(6))),
    "spectral norm": (IMAGE, lambda: layers.SpectralNormalization(layers.Conv2D(6, 3))),
}


def normalized(shape, layer, seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(shape)
    norm = layers.BatchNormalization()
    model = keras.Model(inputs, layers.ReLU()(norm(layer()(inputs))))
    random = np.random.default_rng(seed)
    n = norm.gamma.shape
    norm.gamma.assign(random.uniform(0.5, 1.5, n) * np.where(np.arange(*n) % 3, 1, -1))
    norm.beta.assign(random.normal(size=n))
    norm.moving_mean.assign(0.3 * random.normal(size=n))
    norm.moving_variance.assign(random.uniform(0.5, 2, n))
    return model, random.normal(size=(64, *shape)).astype(np.float32)


@pytest.mark.parametrize("name", LAYERS)
def test_the_trained_file_has_the_operators_of_the_plain_one(name):
    model, x = normalized(*LAYERS[name])
    trained = kc.quantize_model(model)
    trained(x, training=True)
    plain, artifact = (kc.convert(m, representative_dataset=x) for m in (model, trained))
    operators = [kc.inspect_tflite(a.content).operators for a in (plain, artifact)]
    assert operators[0] == operators[1]
    assert {"CONV_2D", "FULLY_CONNECTED"} & set(operators[0])
    # One depthwise convolution at most: a second one would be the normalization.
    assert operators[0].get("DEPTHWISE_CONV_2D", 0) == ("separable" in name)
    assert kc.verify(artifact, trained, x).ok


def test_training_sees_no_integers_between_the_pointwise_convolution_and_the_norm():
    model, _ = normalized(*LAYERS["separable"])
    points = [layer.stands_for for layer in kc.quantize_model(model).layers if hasattr(layer, "stands_for")]
    assert len(points) == 2  # the input's and the ReLU's
    assert points[1].startswith("re_lu")


def test_negative_gammas_go_into_the_pointwise_kernel():
    model, x = normalized(*LAYERS["separable, a bias, two channels each"])
    made = positive_gammas(model)
    before, after = (next(i for i in m.layers if "separable" in i.name) for m in (model, made))
    np.testing.assert_array_equal(after.depthwise_kernel, before.depthwise_kernel)
    flipped = np.asarray(after.pointwise_kernel) / np.asarray(before.pointwise_kernel)
    np.testing.assert_array_equal(flipped[0, 0, 0], [-1, 1, 1, -1, 1, 1])
    np.testing.assert_allclose(made(x), model(x), atol=1e-5)
