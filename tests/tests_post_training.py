"""Small nets with BatchNormalizations that remember the statistics of some data: what passes are tried on."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

Array = NDArray[Any]


def images(count: int = 64, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(count, 12, 12, 3)).astype(np.float32)


def normed(x: Any) -> Any:
    return layers.BatchNormalization(momentum=0.0, epsilon=1e-6)(x)


def residual_net(ceiling: float | None = None) -> keras.Model:
    """Every kind of layer between which channels are scaled, a sum and a concatenation, behind norms."""
    image = keras.Input((12, 12, 3), name="image")
    x = layers.ReLU(ceiling)(normed(layers.Conv2D(8, 3, padding="same", use_bias=False, name="first")(image)))
    x = normed(layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=False, name="depthwise")(x))
    side = x = normed(layers.Conv2D(8, 1, name="pointwise")(layers.ReLU(ceiling)(x)))
    x = layers.LeakyReLU()(normed(layers.SeparableConv2D(8, 3, padding="same", name="separable")(x)))
    x = layers.Add()([normed(layers.Conv2D(8, 3, padding="same", name="conv")(x)), side])
    x = layers.MaxPooling2D()(layers.PReLU(shared_axes=[1, 2], name="slopes")(x))
    up = layers.Conv2DTranspose(4, 3, strides=2, padding="same", activation="relu", name="up")(x)
    x = layers.Concatenate()([x, layers.AveragePooling2D(2)(up)])
    x = layers.Dense(6, activation="relu", name="hidden")(layers.Flatten()(layers.Dropout(0.1)(x)))
    return settled(keras.Model(image, layers.Dense(5, name="logits")(x), name="residual_net"))


def settled(model: keras.Model, seed: int = 1) -> keras.Model:
    """Random norms and slopes, and moving statistics that are those of `images()`, exactly."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            count = layer.gamma.shape[0]
            layer.gamma.assign(random.uniform(0.3, 2.0, count))
            layer.beta.assign(random.normal(size=count))
        if isinstance(layer, layers.PReLU):
            layer.alpha.assign(random.uniform(0.1, 0.5, layer.alpha.shape))
    # Each run settles the norms one layer further.
    for _ in range(8):
        model(images(), training=True)
    return model


def outputs(model: keras.Model, x: Array) -> Array:
    return np.asarray(model(x, training=False))


def largest_difference(first: keras.Model, second: keras.Model) -> float:
    """Relative to the largest output."""
    expected, received = outputs(first, images()), outputs(second, images())
    return float(np.abs(expected - received).max() / np.abs(expected).max())
