from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from tests_post_training import images, outputs, residual_net

import keras_compress as kc
from keras_compress.post_training.bias_from_statistics import bias_from_statistics, mean_error
from keras_compress.post_training.equalize import equalize
from keras_compress.post_training.fold_batch_norms import fold_batch_norms
from keras_compress.post_training.record import NotApplicable

# Of PReLU, which has nothing to be quantized.
pytestmark = pytest.mark.filterwarnings("ignore:Layers left as they are")


def test_the_paper_s_equation() -> None:
    """Behind BN(beta 1, gamma 2) and a ReLU E[x] = 1.3955931; a weight error eps moves the bias by -eps E[x]."""
    norm = layers.BatchNormalization(epsilon=0.0)
    image = keras.Input((1,))
    model = keras.Model(image, layers.Dense(2, name="last")(layers.ReLU()(norm(layers.Dense(1)(image)))))
    norm.set_weights([np.array([2.0]), np.array([1.0]), np.zeros(1), np.ones(1)])
    model.get_layer("last").set_weights([np.array([[1.0, 0.3]]), np.array([0.5, 0.5])])
    folded = fold_batch_norms(model)
    quantized = kc.quantize_model(folded, "int2", None, per_channel=False)
    rounded = float(quantized.get_layer("last").weight("kernel")[0, 1])
    corrected = bias_from_statistics(quantized, folded)
    # int2 has the integers -1, 0 and 1: 0.3 becomes 0.
    assert rounded == 0.0
    bias = np.asarray(corrected.get_layer("last").layer.bias)
    assert bias == pytest.approx([0.5, 0.5 + 0.3 * 1.3955931], abs=1e-6)
    assert np.asarray(quantized.get_layer("last").layer.bias).tolist() == [0.5, 0.5]


def test_means_of_outputs_come_nearer_to_the_float_model_s() -> None:
    model = equalize(residual_net())
    quantized = kc.quantize_model(model, "int4", None, per_channel=False)
    corrected = bias_from_statistics(quantized, model)

    def error(made: keras.Model, name: str) -> float:
        means = [
            outputs(keras.Model(each.input, each.get_layer(name).output), images()).mean(axis=(0, 1, 2))
            for each in (model, made)
        ]
        return float(np.abs(means[0] - means[1]).mean())

    for name in ("depthwise", "pointwise"):
        assert error(corrected, name) < 0.5 * error(quantized, name)


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(3, 3, padding="same", strides=2, activation="relu"),
        layers.Conv2D(4, 3, groups=2),
        layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"),
        layers.SeparableConv2D(3, 3),
        layers.Conv2DTranspose(3, 3, strides=2),
        layers.EinsumDense("abcd,de->abce", output_shape=(None, None, 5), bias_axes="e"),
    ],
)
def test_the_mean_error_of_any_layer_is_that_of_its_sums(layer: layers.Layer) -> None:
    image = keras.Input((6, 6, 2))
    wrapped = kc.quantize_model(keras.Model(image, layer(image)), "int2", None).layers[1]
    mean = np.array([0.7, -1.2])
    x = np.broadcast_to(mean.astype(np.float32), (1, 6, 6, 2))
    plain, rounded = (type(layer).from_config({**layer.get_config(), "activation": None}) for _ in range(2))
    for each in (plain, rounded):
        each.build((1, 6, 6, 2))
    plain.set_weights(layer.get_weights())
    names = list(wrapped.transforms)
    values = [np.asarray(wrapped.weight(name)) for name in names]
    rounded.set_weights([*values, *layer.get_weights()[len(values) :]])
    difference = np.asarray(rounded(x)) - np.asarray(plain(x))
    expected = difference.mean(axis=tuple(range(difference.ndim - 1)))
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(mean_error(wrapped, mean, (None, 6, 6, 2)), expected, atol=1e-6)


def test_models_without_statistics_are_refused() -> None:
    image = keras.Input((3,))
    with pytest.raises(NotApplicable, match="Expected a model with BatchNormalizations"):
        bias_from_statistics(kc.quantize_model(keras.Model(image, layers.Dense(2)(image))))
