"""Data on another scale than the training data are said."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.quantizers.activation import MovingAverageRange, QuantizeActivation

L = keras.layers
X = np.random.default_rng(0).random((64, 6, 6, 2)).astype("float32")


def behind_convolution() -> keras.Model:
    model = keras.Sequential([keras.Input((6, 6, 2)), L.Conv2D(4, 3), L.BatchNormalization(), L.ReLU()])
    before = np.array(model.layers[0](X)).reshape(-1, 4)
    model.layers[1].moving_mean.assign(before.mean(0))
    model.layers[1].moving_variance.assign(before.var(0))
    return model


def normalized() -> keras.Model:
    layer = L.Normalization()
    layer.adapt(X)
    return keras.Sequential([keras.Input((6, 6, 2)), layer, L.Conv2D(4, 3)])


def trained_range() -> keras.Model:
    quantizer = MovingAverageRange(8)
    quantizer.set_range(0.0, 1.0)
    point = QuantizeActivation(quantizer, name="point")
    return keras.Sequential([keras.Input((6, 6, 2)), point, L.Conv2D(4, 3), QuantizeActivation(MovingAverageRange(8))])


@pytest.mark.parametrize("make", [behind_convolution, normalized, trained_range])
def test_pixels_to_255_for_pixels_to_1_are_said(make) -> None:
    model = make()
    with pytest.warns(UserWarning, match=r"Expected data for calibration on the scale.*2\d\d times as wide") as caught:
        kc.freeze(model, X * np.float32(255))
    assert [each.filename for each in caught if each.category is UserWarning] == [__file__]
    with pytest.warns(UserWarning, match=r"0\.0\d+ times as wide"):
        kc.freeze(model, X / np.float32(255))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        frozen = kc.freeze(model, X)
        kc.freeze(model, X * np.float32(2))
    assert frozen.calibration_samples == 64


def test_statistics_that_were_never_trained_say_nothing() -> None:
    model = keras.Sequential([keras.Input((6, 6, 2)), L.Conv2D(4, 3), L.BatchNormalization()])
    for data in (X * np.float32(255), X * np.float32(1e-6), X[:1]):
        kc.freeze(model, data)
