"""TensorFlow's own exporters write floats: said once, and only there."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_compress as kc

X = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")


def said(call: Callable[[], Any]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [each for each in caught if "kc.convert(model)" in str(each.message)]


def test_an_export_of_a_quantized_model_is_said_once(tmp_path) -> None:
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, activation="relu"), keras.layers.Dense(3)])
    quantized = kc.quantize_model(model)
    quantized.compile("sgd", "mse", jit_compile=False)

    def uses() -> None:
        quantized.train_on_batch(X, X[:, :3])
        quantized(X)
        quantized.save(tmp_path / "q.keras")
        kc.convert(quantized)
        kc.convert(quantized, mode="float32")

    def from_keras_model() -> None:
        tf.lite.TFLiteConverter.from_keras_model(kc.quantize_model(model)).convert()

    def export(each: keras.Model) -> Callable[[], None]:
        return lambda: each.export(tmp_path / "saved", verbose=False)

    assert said(uses) == []
    (warning,) = said(export(quantized))
    assert warning.filename == __file__
    assert said(export(quantized)) == []
    assert len(said(from_keras_model)) == 1
    assert said(export(kc.strip(quantized))) == []
