"""The trained models behind the files of this folder, each made from a seed of its own, stage by stage.

A stage that has ended is kept in a folder as a `.keras` file, and a run that was stopped goes on behind it.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from keras import layers

import keras_compress as kc
from keras_compress.convert.files import make_folder, save_keras_atomic
from keras_compress.demo import datasets, models

SEED = 0
BATCHES = {"digits": 64, "fashion_mnist": 128}
CLUSTERS = 16
# The first and the last layer of nets with few bits, as in the papers.
EDGES = [{"layers": "first", "weights": "int8"}, {"layers": "last", "weights": "int8", "activations": "int8"}]


def fashion_cnn() -> keras.Model:
    """Four convolutions with batch normalization, one dense layer: 52,890 parameters, 1.2 million multiplications."""
    image = keras.Input((28, 28, 1), name="image")
    x = _conv(image, 16, 5, 2, "conv1")
    x = _conv(x, 32, 3, 2, "conv2")
    x = _conv(x, 48, 3, 1, "conv3")
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = _conv(x, 64, 3, 1, "conv4")
    return keras.Model(image, layers.Dense(10, name="logits")(layers.Flatten(name="flatten")(x)), name="fashion_cnn")


def _conv(x: Any, filters: int, size: int, strides: int, name: str) -> Any:
    x = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False, name=name)(x)
    return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x))


@dataclass(frozen=True)
class Trainer:
    """Adam with a cosine learning rate on the training images of one data set; the test images are not looked at."""

    data: datasets.Dataset

    @property
    def batch(self) -> int:
        return BATCHES[self.data.name]

    def steps(self, epochs: int) -> int:
        """Batches in so many epochs."""
        return epochs * math.ceil(len(self.data.x_train) / self.batch)

    def __call__(self, model: keras.Model, epochs: int, learning_rate: float) -> keras.Model:
        """Trains in place; a line tells each epoch, or every tenth."""
        model.compile(
            keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, self.steps(epochs))),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        said = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: _say(epoch + 1, epochs, logs))
        x, y = self.data.x_train, self.data.y_train
        model.fit(x, y, batch_size=self.batch, epochs=epochs, verbose=0, callbacks=[said])
        return model

    def pruned(self, model: keras.Model, sparsity: float, epochs: int, rules: list[dict[str, Any]]) -> keras.Model:
        """The model with so many zeros, reached at 70 % of the epochs."""
        steps = self.steps(epochs)
        schedule = kc.PolynomialDecay(0.3, sparsity, begin_step=0, end_step=0.7, frequency=10, total_steps=steps)
        return self(kc.prune_low_magnitude(model, schedule, rules=rules), epochs, 2e-3)


def _say(epoch: int, epochs: int, logs: dict[str, float]) -> None:
    if epochs < 10 or epoch % 10 == 0 or epoch == epochs:
        print(f"  epoch {epoch} of {epochs}: training accuracy {logs['accuracy']:.4f}", flush=True)


class Stages:
    """The trained models by name, made when they are asked for or read from where they were kept.

    Args:
        folder: Where ended stages are kept; those of other sources or versions are not looked at.
    """

    def __init__(self, folder: Path) -> None:
        known = Path(__file__).read_bytes() + f"{keras.__version__} {tf.__version__} {kc.__version__}".encode()
        self.folder = folder / hashlib.sha256(known).hexdigest()[:12]
        self._made: dict[str, keras.Model] = {}
        self._makers: dict[str, Callable[[], keras.Model]] = {
            "digits_base": lambda: self.digits(models.digits_cnn(), 40, 2e-3),
            "digits_small": self._digits_small,
            "fashion_base": lambda: self.fashion(fashion_cnn(), 8, 2e-3),
            "fashion_int8": lambda: self.fashion(kc.quantize_model(self["fashion_base"]), 2, 2e-4),
            "fashion_w4a4": lambda: self._few_bits("int4", "lsq4"),
            "fashion_ternary": lambda: self._few_bits("twn", "int8"),
            "fashion_channels": self._fashion_channels,
            "fashion_small": self._fashion_small,
        }

    def __getitem__(self, name: str) -> keras.Model:
        if name not in self._made:
            self._made[name] = self._kept_or_trained(name)
        return self._made[name]

    @cached_property
    def digits(self) -> Trainer:
        """Of 1,437 images."""
        return Trainer(datasets.load("digits"))

    @cached_property
    def fashion(self) -> Trainer:
        """Of 60,000 images."""
        return Trainer(datasets.load("fashion_mnist"))

    def data_of(self, name: str) -> datasets.Dataset:
        """The data set of a stage, or of a file by the same beginning."""
        return (self.digits if name.startswith("digits") else self.fashion).data

    def _kept_or_trained(self, name: str) -> keras.Model:
        path = self.folder / f"{name}.keras"
        if path.is_file():
            print(f"{name}: kept from an earlier run", flush=True)
            return keras.models.load_model(path, compile=False)
        if not name.endswith("_base"):
            self[f"{name.partition('_')[0]}_base"]
        print(f"{name}: training", flush=True)
        started = time.monotonic()
        # Each from a seed of its own: a run that goes on gives the same bytes as one that was not stopped.
        keras.utils.set_random_seed(SEED)
        model = self._makers[name]()
        save_keras_atomic(model, make_folder(self.folder) / path.name)
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        return model

    def _digits_small(self) -> keras.Model:
        # These three hold 976 of 22,480 weights: nothing to win, and what comes first and last is what errs first.
        rules = [{"layers": ["stem", "depthwise", "logits"], "skip": True}]
        model = self.digits.pruned(self["digits_base"], 0.8, 30, rules)
        model = self.digits(kc.cluster_weights(model, CLUSTERS), 10, 5e-4)
        return self.digits(kc.quantize_model(model), 15, 5e-4)

    def _few_bits(self, weights: str, activations: str) -> keras.Model:
        model = kc.quantize_model(self["fashion_base"], weights=weights, activations=activations, rules=EDGES)
        return self.fashion(model, 5, 1e-3)

    def _fashion_channels(self) -> keras.Model:
        cut = kc.prune_channels(self["fashion_base"], target=kc.Budget(macs=0.4), criterion="bn_gamma")
        return self.fashion(kc.quantize_model(self.fashion(cut, 4, 1e-3)), 2, 2e-4)

    def _fashion_small(self) -> keras.Model:
        rules = [{"layers": "first", "skip": True}]
        model = self.fashion.pruned(self["fashion_base"], 0.85, 5, rules)
        model = self.fashion(kc.cluster_weights(model, CLUSTERS), 2, 5e-4)
        return self.fashion(kc.quantize_model(model), 2, 2e-4)
