from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.post_training.compare import PassReport, compare_layers
from keras_compress.post_training.gptq import gptq


def test_figures_are_those_of_the_definition() -> None:
    """A weight of 1 that int2 makes to 1 and one of 0.4 that it makes to 0: 10 log10(1.16 / 0.16) dB."""
    image = keras.Input((2,), name="image")
    model = keras.Model(image, layers.Dense(1, name="dense")(image), name="net")
    model.layers[1].set_weights([np.array([[1.0], [0.4]]), np.zeros(1)])
    quantized = kc.quantize_model(model, "int2", None)
    x = np.array([[1.0, 1.0], [2.0, 0.0]], np.float32)
    stage = compare_layers(model, quantized, [x], "int2")
    assert stage.layers["dense"].weight_sqnr_db == pytest.approx(10 * np.log10(1.16 / 0.16), abs=1e-4)
    # Outputs (1.4, 2.0) become (1.0, 2.0).
    assert stage.output_sqnr_db == pytest.approx(10 * np.log10((1.4**2 + 4) / 0.16), abs=1e-4)
    assert stage.layers["dense"].output_sqnr_db == stage.output_sqnr_db
    without = compare_layers(model, quantized)
    assert without.layers["dense"].output_sqnr_db is without.output_sqnr_db is None
    report = PassReport("net", (stage, without))
    assert report.rows() == [
        ["layer", "int2", ""],
        ["dense", "8.6, 15.7", "8.6, -"],
        ["the outputs", "15.7", "-"],
    ]
    assert "15.7 dB" in repr(report)


def test_weights_are_compared_with_those_of_the_float_model() -> None:
    """GPTQ makes the latent weights whole steps, from which rounding takes nothing more: w = (1, 0.4) is (1, 0)."""
    image = keras.Input((2,), name="image")
    model = keras.Model(image, layers.Dense(1, name="dense")(image), name="net")
    model.layers[1].set_weights([np.array([[1.0], [0.4]]), np.zeros(1)])
    # Inputs that have nothing to do with each other: GPTQ rounds to the nearest.
    data = np.array([[1.0, 1.0], [1.0, -1.0]] * 8, np.float32)
    rounded = gptq(kc.quantize_model(model, "int2", None), data)
    expected = pytest.approx(10 * np.log10(1.16 / 0.16), abs=1e-4)
    assert compare_layers(model, rounded).layers["dense"].weight_sqnr_db == expected
