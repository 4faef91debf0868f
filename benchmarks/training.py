"""How the benchmarks on Fashion-MNIST train their networks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import keras

import keras_compress as kc

if TYPE_CHECKING:
    from keras_compress.demo import datasets


def fit(
    model: keras.Model,
    data: datasets.Dataset,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    batch_size: int,
    teacher: kc.TeacherOutputs | None = None,
) -> float:
    """Train with Adam and a learning rate that falls to 0 as a cosine; returns seconds for each epoch.

    A teacher adds its soft targets as `kc.distill` does by default.
    """
    steps = epochs * -(-len(data.x_train) // batch_size)
    keras.utils.set_random_seed(seed)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps))
    trained = model if teacher is None else kc.distill(model, teacher)
    y_train = data.y_train if teacher is None else teacher.targets(data.y_train)
    trained.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    begin = time.perf_counter()
    trained.fit(data.x_train, y_train, batch_size=batch_size, epochs=epochs, verbose=0)
    return (time.perf_counter() - begin) / epochs
