from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.post_training.bias_from_data import bias_from_data
from keras_compress.post_training.record import record_of

Tiny = tuple[keras.Model, np.ndarray]


def dense(kernel: list, activation: str | None = None, use_bias: bool = True) -> keras.Model:
    inputs = keras.Input((2,))
    layer = keras.layers.Dense(1, activation=activation, use_bias=use_bias, name="dense")
    model = keras.Model(inputs, layer(inputs))
    layer.kernel.assign(kernel)
    return model


@pytest.mark.parametrize("activation", [None, "relu"])
def test_the_bias_takes_the_mean_error_before_the_activation(activation: str | None) -> None:
    """w = (7, 2.4) with 4 bits is (7, 2); the mean of the second input is 3: 0.4 * 3 = 1.2 are missing."""
    model = dense([[7.0], [2.4]], activation)
    quantized = kc.quantize_model(model, weights="int4", activations="int8")
    data = np.array([[-5.0, 2.0], [5.0, 4.0]] * 10, np.float32)
    corrected = bias_from_data(quantized, data)
    np.testing.assert_allclose(corrected.get_layer("dense").layer.bias, [1.2], atol=1e-5)
    assert keras.activations.serialize(corrected.get_layer("dense").layer.activation) == (activation or "linear")
    # The model that was given stays as it was.
    np.testing.assert_array_equal(quantized.get_layer("dense").layer.bias, [0.0])


@pytest.mark.parametrize(("activations", "expected"), [(False, 0.0), (True, 0.8)])
def test_what_rounded_activations_take_from_the_mean(activations: bool, expected: float) -> None:
    """Steps of 1 from 0 to 255: a background of 3.4 is 3, times 2 off by 0.8; the weights are exact."""
    quantized = kc.quantize_model(dense([[7.0], [2.0]]), weights="int4", activations="int8")
    data = np.array([[0.0, 3.4], [255.0, 3.4]] * 10, np.float32)
    corrected = bias_from_data(quantized, data, activations=activations)
    np.testing.assert_allclose(corrected.get_layer("dense").layer.bias, [expected], atol=1e-4)


def test_later_layers_see_the_corrected_ones(tiny: Tiny) -> None:
    """With everything corrected, the mean of each output channel is the float model's."""
    model, values = tiny
    quantized = kc.quantize_model(model, weights="int3", activations=None)
    corrected = bias_from_data(quantized, values)
    effects = record_of(corrected).effects
    means = [np.asarray(m(values)).mean(axis=0) for m in (model, quantized, corrected)]
    np.testing.assert_allclose(means[2], means[0], atol=1e-5)
    assert np.abs(means[1] - means[0]).max() > 0.01
    found = [sqnr_db(np.asarray(model(values)), np.asarray(m(values))) for m in (quantized, corrected)]
    assert found[1] > found[0]
    assert [each.layer for each in effects] == ["stem", "depthwise", "pointwise", "logits"]
    # A layer without a bias: what its BatchNormalization takes off changes.
    before, after = (np.asarray(m.get_layer("stem_norm").moving_mean) for m in (quantized, corrected))
    assert not np.allclose(before, after)


def test_corrected_models_are_verified(tiny: Tiny) -> None:
    model, values = tiny
    corrected = bias_from_data(kc.quantize_model(model, weights="int4"), values)
    assert kc.verify(kc.convert(corrected), corrected, values[:16]).ok


def test_a_layer_without_a_place_for_it_is_said() -> None:
    quantized = kc.quantize_model(dense([[7.0], [2.4]], use_bias=False), weights="int4")
    data = np.random.default_rng(0).normal(size=(32, 2)).astype(np.float32)
    with pytest.warns(UserWarning, match="'dense': it has no bias"):
        bias_from_data(quantized, data)


def test_bad_data() -> None:
    quantized = kc.quantize_model(dense([[7.0], [2.4]]), weights="int4")
    with pytest.raises(ValueError, match="finite"):
        bias_from_data(quantized, np.full((20, 2), np.nan, np.float32))
    with pytest.warns(UserWarning, match="16 samples or more"):
        bias_from_data(quantized, np.array([[1.0, 2.0]], np.float32))
    with pytest.raises(ValueError, match="quantized weights"):
        bias_from_data(dense([[7.0], [2.4]]), np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32))
