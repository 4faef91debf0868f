"""Small nets that the tests of distillation share."""

from __future__ import annotations

import keras
from keras import layers


def dense(width: int, name: str, activation: str | None = None, norm: bool = False) -> keras.Model:
    """A layer `hidden`, a layer `out` of three classes."""
    inputs = keras.Input((6,))
    made = layers.Dense(width, "relu", name="hidden")(inputs)
    if norm:
        made = layers.BatchNormalization(name="norm")(made)
    return keras.Model(inputs, layers.Dense(3, activation, name="out")(made), name=name)
