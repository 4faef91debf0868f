"""How the benchmarks on Fashion-MNIST train their networks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import keras

if TYPE_CHECKING:
    from keras_compress.demo import datasets


def fit(
    model: keras.Model, data: datasets.Dataset, *, epochs: int, learning_rate: float, seed: int, batch_size: int
) -> float:
    """Train with Adam and a learning rate that falls to 0 as a cosine; returns seconds for each epoch."""
    steps = epochs * -(-len(data.x_train) // batch_size)
    keras.utils.set_random_seed(seed)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps))
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    begin = time.perf_counter()
    model.fit(data.x_train, data.y_train, batch_size=batch_size, epochs=epochs, verbose=0)
    return (time.perf_counter() - begin) / epochs
