from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from tests_post_training import images, largest_difference, outputs, settled

from keras_compress.post_training.absorb_bias import absorb_bias, response
from keras_compress.post_training.fold_batch_norms import fold_batch_norms
from keras_compress.post_training.record import NotApplicable, record_of


def test_the_paper_s_equations() -> None:
    """beta (10, 1), gamma (1, 2): c = max(0, beta - 3 gamma) = (7, 0), which W2 = (2, 3) makes to 14."""
    norm = layers.BatchNormalization(epsilon=0.0)
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2), norm, layers.ReLU(), layers.Dense(1)])
    model.layers[0].set_weights([np.eye(2), np.zeros(2)])
    norm.set_weights([np.array([1.0, 2.0]), np.array([10.0, 1.0]), np.zeros(2), np.ones(2)])
    model.layers[3].set_weights([np.array([[2.0], [3.0]]), np.array([0.5])])
    made = absorb_bias(model)
    kernel, bias, reader, reader_bias = made.get_weights()
    assert bias.tolist() == [3.0, 1.0]
    assert reader_bias.tolist() == [14.5]
    assert kernel.tolist() == [[1.0, 0.0], [0.0, 2.0]]
    assert reader.tolist() == [[2.0], [3.0]]
    (known,) = record_of(made).statistics.values()
    assert known.mean.tolist() == [3.0, 1.0]
    assert known.std.tolist() == [1.0, 2.0]
    # Where nothing is cut, nothing changes: the first channel is above 7 for inputs above -3.
    x = np.array([[-2.9, 0.3], [5.0, -1.0]], np.float32)
    np.testing.assert_allclose(outputs(made, x), outputs(model, x), rtol=1e-6)


def high_biases(padding: str = "valid") -> keras.Model:
    image = keras.Input((12, 12, 3))
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.0)(layers.Conv2D(6, 3, name="first")(image)))
    x = layers.MaxPooling2D(2)(x)
    x = layers.DepthwiseConv2D(3, padding=padding, depth_multiplier=2, name="depthwise")(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.0)(x))
    x = layers.Flatten()(layers.SeparableConv2D(4, 2, activation="relu", name="separable")(x))
    model = settled(keras.Model(image, layers.Dense(5, name="logits")(x)))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            # Six standard deviations above 0: at three, next to nothing is cut.
            layer.beta.assign(6.0 * layer.gamma)
    for _ in range(3):
        model(images(), training=True)
    return model


def test_high_biases_move_on_and_the_function_nearly_stays() -> None:
    model = high_biases()
    made = absorb_bias(model)
    folded = fold_batch_norms(model)
    # One value in 740 is cut.
    assert largest_difference(model, made) < 0.06
    for name in ("first", "depthwise"):
        known = record_of(folded).statistics[name]
        values = outputs(keras.Model(made.input, made.get_layer(name).output), images())
        np.testing.assert_allclose(record_of(made).statistics[name].mean, 3 * known.std, rtol=1e-6)
        np.testing.assert_allclose(values.mean(axis=(0, 1, 2)), 3 * known.std, rtol=0.02)


def test_layers_that_pad_read_no_absorbed_bias_unless_asked() -> None:
    model = high_biases("same")
    folded, made = fold_batch_norms(model), absorb_bias(model)
    np.testing.assert_array_equal(made.get_layer("first").bias, folded.get_layer("first").bias)
    assert largest_difference(model, made) < 0.02
    assert np.all(absorb_bias(model, padded=True).get_layer("first").bias < folded.get_layer("first").bias)


@pytest.mark.parametrize("activation", ["tanh", "relu6", "sigmoid"])
def test_other_activations_keep_their_biases(activation: str) -> None:
    image = keras.Input((4,))
    norm = layers.BatchNormalization(momentum=0.0)
    x = layers.Activation(activation)(norm(layers.Dense(4)(image)))
    model = keras.Model(image, layers.Dense(2)(x))
    norm.beta.assign(np.full(4, 9.0))
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    made = absorb_bias(model)
    np.testing.assert_allclose(outputs(made, x), outputs(model, x), atol=1e-5)
    assert record_of(made).notes == ("High biases absorbed: 0 channels",)


def test_the_response_to_constant_channels_is_the_sum_of_the_taps() -> None:
    layer = layers.Conv2D(2, 3, strides=2, padding="same", dilation_rate=1, activation="relu")
    layer.build((None, 8, 8, 3))
    values = np.array([1.0, -2.0, 0.5])
    expected = np.einsum("hwio,i->o", np.asarray(layer.kernel), values)
    np.testing.assert_allclose(response(layer, values), expected, rtol=1e-5)


def test_models_without_statistics_are_refused() -> None:
    image = keras.Input((3,))
    with pytest.raises(NotApplicable, match="Expected a model with BatchNormalizations"):
        absorb_bias(keras.Model(image, layers.Dense(2)(layers.Dense(3, "relu")(image))))
    with pytest.raises(ValueError, match="Expected `sigmas` >= 0. Received: sigmas=-1"):
        absorb_bias(high_biases(), sigmas=-1.0)
