from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from tests_post_training import images, residual_net

import keras_compress as kc
from keras_compress.post_training.compare import compare_layers
from keras_compress.post_training.start import with_ranges
from keras_compress.post_training.trial import outputs_of, trial_db
from keras_compress.quantizers.activation import QuantizeActivation

# Of PReLU, which has nothing to be quantized.
pytestmark = pytest.mark.filterwarnings("ignore:Layers left as they are")


def points(model: keras.Model) -> list[QuantizeActivation]:
    return [layer for layer in model.layers if isinstance(layer, QuantizeActivation)]


def test_one_value_between_two_levels() -> None:
    """0.3 is 76.5 steps of 1 / 255: half a step of noise, 10 log10(1.09 / (0.5 / 255)^2) = 54.53 dB."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False)])
    model.set_weights([np.array([[1.0]])])
    data = [np.array([[0.0], [0.3], [1.0]], np.float32)]
    quantized = kc.quantize_model(model)
    assert abs(trial_db(outputs_of(model, data), quantized, data) - 54.53) < 0.01
    assert not any(point.quantizer.trained() for point in points(quantized))


def test_as_with_ranges_of_these_very_samples() -> None:
    """Calibration rounds at points of a fixed grid meanwhile, which moves the extremes behind them a little."""
    model, data = residual_net(), images(16)
    quantized = kc.quantize_model(model)
    ranged = with_ranges(quantized, data, "min_max")
    expected = compare_layers(model, ranged, [data]).output_sqnr_db
    assert expected is not None
    assert abs(trial_db(outputs_of(model, [data]), quantized, [data]) - expected) < 0.3
    assert abs(trial_db(outputs_of(model, [data]), ranged, [data]) - expected) < 1e-6


def test_known_ranges_are_those_that_count() -> None:
    data = [np.array([[0.0], [1.0]], np.float32)]
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False)])
    model.set_weights([np.array([[1.0]])])
    quantized = kc.quantize_model(model)
    for point in points(quantized):
        point.quantizer.set_range(0.0, 0.5)
    # What is cut at a half: noise a quarter of the signal.
    assert abs(trial_db(outputs_of(model, data), quantized, data) - 6.02) < 0.01
