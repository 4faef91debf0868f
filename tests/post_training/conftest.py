from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers


@pytest.fixture(scope="module")
def tiny() -> tuple[keras.Model, np.ndarray]:
    """A small residual net with conv, depthwise, BatchNormalization and Dense, and inputs that are alike."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = shortcut = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_norm")(x))
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.ReLU(name="depthwise_relu")(x)
    x = layers.Conv2D(8, 1, activation="relu", name="pointwise")(x)
    x = layers.Add(name="add")([x, shortcut])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, layers.Dense(5, name="logits")(x), name="tiny")
    draw = np.random.default_rng(0)
    norm = model.get_layer("stem_norm")
    norm.gamma.assign(draw.uniform(0.5, 1.5, 8))
    norm.beta.assign(draw.normal(size=8) * 0.3)
    norm.moving_mean.assign(draw.normal(size=8) * 0.2)
    patterns = draw.normal(size=(6, 8, 8, 3))
    values = np.einsum("np,phwc->nhwc", draw.normal(size=(192, 6)), patterns) / 2
    return model, values.astype(np.float32)
