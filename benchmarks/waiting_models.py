"""The networks of `waiting.py`, small and large, with seeded weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers
from zoo_members import Member
from zoo_models import build, data

Array = np.ndarray[Any, Any]


def small_cnn() -> keras.Model:
    """Two convolutions and ten classes, for images of digits."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), name="image"),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )


def vit(blocks: int = 6, width: int = 192, heads: int = 3) -> keras.Model:
    """A vision transformer for 64x64 images: 64 patches of 8x8 pixels, norms in front, ten classes."""
    inputs = keras.Input((64, 64, 3), name="image")
    x = layers.Reshape((64, width))(layers.Conv2D(width, 8, strides=8)(inputs))
    x = x + layers.Embedding(64, width)(keras.ops.arange(64))
    for _ in range(blocks):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(heads, width // heads)(y, y)
        y = layers.Dense(4 * width, activation="gelu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(width)(y)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def lstm() -> keras.Model:
    """64 units over 40 steps of 64 numbers, and ten classes."""
    return keras.Sequential([keras.Input((40, 64), name="sequence"), layers.LSTM(64), layers.Dense(10)])


MODELS: dict[str, Callable[[], keras.Model] | Member] = {
    "small CNN": small_cnn,
    "MobileNetV2-224": Member("MobileNetV2", "", "MobileNetV2"),
    "EfficientNetB0": Member("EfficientNet", "", "EfficientNetB0"),
    "ViT-6x192": vit,
    "LSTM 64x40": lstm,
    "unrolled LSTM 64x40": lstm,
    "ResNet50": Member("ResNet", "", "ResNet50"),
}


def built(name: str) -> keras.Model:
    """The network with seeded weights, under which the values of deep networks do not vanish."""
    made = MODELS[name]
    if isinstance(made, Member):
        return build(made, 0)
    keras.utils.set_random_seed(0)
    return made()


def samples(model: keras.Model, count: int) -> Array:
    """Seeded images, or sequences of normal numbers."""
    shape = model.inputs[0].shape[1:]
    if len(shape) == 3:
        return data(model, count, 1)
    return np.random.default_rng(1).normal(size=(count, *shape)).astype(np.float32)
