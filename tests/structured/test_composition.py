"""Channels first, then everything else: what is cut is pruned, clustered, quantized, converted and run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.demo import datasets
from keras_compress.recipes.packaged import FOLDER
from keras_compress.recipes.recipe import Stage

STEPS, BATCH = 8, 64
KERNELS = ("xnnpack", "reference", "tflm")


@pytest.fixture(scope="module")
def float_model(digits: datasets.Dataset) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.7)(x))
    y = layers.BatchNormalization(momentum=0.7)(layers.Conv2D(16, 1, use_bias=False, name="point")(x))
    x = layers.MaxPooling2D()(layers.ReLU()(layers.Add()([x, y])))
    model = keras.Model(inputs, layers.Dense(10, name="logits")(layers.Flatten()(x)))
    train(model, digits, steps=15 * STEPS)
    return model


def train(model: keras.Model, digits: datasets.Dataset, learning_rate: float = 0.01, steps: int = STEPS) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(learning_rate), loss, jit_compile=False, run_eagerly=steps <= STEPS)
    count = STEPS * BATCH
    epochs = steps // STEPS
    model.fit(digits.x_train[:count], digits.y_train[:count], batch_size=BATCH, epochs=epochs, verbose=0)


def accuracy(outputs: Any, digits: datasets.Dataset) -> float:
    return float((np.argmax(np.asarray(outputs), -1) == digits.y_test).mean())


def recipe_of_one_epoch(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(Path(FOLDER, f"{name}.json").read_text(encoding="utf-8"))
    for stage in data["stages"]:
        stage.update(epochs=1, learning_rate=0.005)
    return data


def test_channels_pcqat_runs_on_the_device_as_it_was_trained(
    float_model: keras.Model, digits: datasets.Dataset
) -> None:

    def fit(trained: keras.Model, stage: Stage) -> None:
        # Pruning, clustering and quantization in one training: each makes programs of its own, which take seconds.
        if stage.name in ("channels", "quantize"):
            train(trained, digits, stage.learning_rate)

    model = kc.compress(float_model, recipe_of_one_epoch("channels_pcqat"), steps_per_epoch=STEPS, fit=fit)
    artifact = kc.convert(model, "tflm", representative_dataset=digits.x_train[:100])
    result = kc.verify(artifact, model, digits.x_test[:200], kernels=KERNELS)
    assert result.ok
    assert {row.kernel for row in result.rows} == set(KERNELS)
    stored = kc.inspect_tflite(artifact.content).weights
    assert [tensor.shape for tensor in stored] == [(8, 3, 3, 1), (8, 1, 1, 8), (10, 128)]
    assert all(tensor.distinct_values <= 16 for tensor in stored)
    assert 0.79 <= sum(t.sparsity * t.elements for t in stored) / sum(t.elements for t in stored) <= 0.85
    assert accuracy(artifact.frozen(digits.x_test), digits) > 0.5


def test_masked_softly_then_cut_and_quantized(float_model: keras.Model, digits: datasets.Dataset) -> None:
    schedule = kc.PolynomialDecay(0.1, 0.5, begin_step=0, end_step=STEPS - 1, frequency=2)
    masked = kc.mask_channels(float_model, schedule, criterion="l2")
    train(masked, digits)
    cut = kc.cut_masked(masked)
    np.testing.assert_allclose(np.array(cut(digits.x_test)), np.array(masked(digits.x_test)), rtol=1e-4, atol=1e-4)
    assert [cut.get_layer(name).kernel.shape[-1] for name in ("stem", "point", "logits")] == [8, 8, 10]
    artifact = kc.convert(cut, representative_dataset=digits.x_train[:100])
    assert kc.verify(artifact, cut, digits.x_test[:100], kernels=("xnnpack",)).ok
