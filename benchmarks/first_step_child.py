"""One wait of `first_step.py`, in a process of its own: wrap, first step, peak memory; or steps in turns."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from first_step_nets import BATCH, CLUSTERS, MOBILENET, PRUNING
from timing import in_turns, summarize

import keras_compress as kc
from keras_compress import models

Model = Any
# Keras traces a step twice where the optimizer makes variables in it, as Adam does. XLA is asked for, as Keras 3.15
# takes "auto" for False on a machine without accelerators.
MODES = {"sgd": ("sgd", False), "adam": ("adam", False), "xla": ("sgd", True)}


def _lstm() -> Model:
    x = inputs = keras.Input((40, 16))
    x = keras.layers.LSTM(64, return_sequences=True)(x)
    x = keras.layers.LSTM(64)(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def _transformer() -> Model:
    layers = keras.layers
    x = inputs = keras.Input((32, 64))
    for _ in range(2):
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 16)(x, x))
        hidden = layers.Dense(256, activation="relu")(x)
        x = layers.LayerNormalization()(x + layers.Dense(64)(hidden))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


NETS: dict[str, Callable[[], Model]] = {
    "mobilenet": lambda: keras.applications.MobileNetV2(**MOBILENET, weights=None),
    "resnet20": lambda: models.resnet20((32, 32, 3)),
    "lstm": _lstm,
    "transformer": _transformer,
}


def net(name: str) -> Model:
    keras.utils.set_random_seed(0)
    return NETS[name]()


def wrapped(model: Model, method: str) -> Model:
    """The model for training with one method, or all three, as a user of the library wraps it."""
    if method in ("prune", "all"):
        model = kc.prune_low_magnitude(model, kc.PolynomialDecay(**PRUNING))
    if method in ("cluster", "all"):
        model = kc.cluster_weights(model, CLUSTERS)
    if method in ("quantize", "all"):
        model = kc.quantize_model(model)
    return model


def trained_by(model: Model, mode: str) -> Callable[[], object]:
    """One training step of Keras's own."""
    classes = model.output_shape[-1]
    optimizer, jit = MODES[mode]
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=jit)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(BATCH, *model.input_shape[1:])).astype(np.float32)
    y = generator.integers(0, classes, BATCH)
    return lambda: model.train_on_batch(x, y)


def peak() -> float:
    """Most memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def wait(name: str, method: str, mode: str) -> dict[str, float]:
    """CPU seconds of wrapping and of the first step, and the peak of the process behind three steps."""
    model = net(name)
    begin = time.process_time()
    model = wrapped(model, method)
    between = time.process_time()
    step = trained_by(model, mode)
    step()
    end = time.process_time()
    step()
    step()
    return {"wrap": between - begin, "first_step": end - between, "peak_megabytes": peak()}


def steady(name: str, mode: str, methods: Sequence[str], blocks: int) -> dict[str, dict[str, float]]:
    """Times of a step in ms, of the float model and of each method, in turns."""
    steps = {method: trained_by(wrapped(net(name), method), mode) for method in methods}
    return summarize(in_turns(steps, block_steps=10, blocks=blocks, warmup_steps=5, clock=time.process_time))


def main(arguments: Sequence[str]) -> None:
    kind, name, mode, *rest = arguments
    if kind == "wait":
        found: Any = wait(name, rest[0], mode)
    else:
        found = steady(name, mode, rest[1:], int(rest[0]))
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
