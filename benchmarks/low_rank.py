"""Layers of low rank on Fashion-MNIST: accuracy and latency beside the whole network, with and without data.

python benchmarks/low_rank.py [--quick] [--seeds=0]
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from absl import app, flags
from common import at_least, fashion_mnist, print_goals, write_results
from keras import layers

import keras_compress as kc

TRAINED, EPOCHS, TUNED = 20_000, 4, 2
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
# 2.4 times fewer multiplications, as Jaderberg et al. and Kim et al. report them.
TARGET = 1 / 2.4
_QUICK = flags.DEFINE_bool("quick", False, "Little data; results are not written.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Networks to train.")


def vgg() -> keras.Model:
    """Six 3x3 convolutions in three stages."""
    x = image = keras.Input((28, 28, 1))
    for filters in (16, 32, 64):
        for _ in range(2):
            x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)))
        x = layers.MaxPooling2D()(x)
    x = layers.Dense(128, activation="relu", name="hidden")(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(10, name="logits")(x), name="vgg")


def accuracy(model: keras.Model, x: Any, y: Any) -> float:
    """Share of images that are classified rightly."""
    return float((model.predict(x, batch_size=500, verbose=0).argmax(-1) == y).mean())


def rows(seed: int, data: Any, epochs: int, tuned: int) -> list[dict[str, Any]]:
    """The network whole, then factorized in each way, before and after training on."""
    (x, y), (x_test, y_test) = data
    keras.utils.set_random_seed(seed)
    model = vgg()
    kc.Training(LOSS, epochs=epochs, learning_rate=2e-3).on(x, y)(model)
    made = {"whole": model}
    ways: dict[str, dict[str, Any]] = {
        "svd": {"method": "svd"},
        "svd, with data": {"method": "svd", "data": x[:256]},
        "spatial": {"method": "spatial"},
        "tucker": {"method": "tucker"},
        "auto": {},
    }
    found = [{"name": "whole", "seed": seed, "accuracy": accuracy(model, x_test, y_test), "macs": 1.0}]
    for name, options in ways.items():
        each = kc.factorize(model, target={"macs": TARGET}, filters="re:conv", **options)
        before = accuracy(each, x_test, y_test)
        kc.Training(LOSS, epochs=tuned, learning_rate=1e-3).on(x, y)(each)
        macs = kc.Macs().of(each) / kc.Macs().of(model)
        found.append(
            {"name": name, "seed": seed, "before": before, "accuracy": accuracy(each, x_test, y_test), "macs": macs}
        )
        made[name] = each
    for mode, options in (("float32", {"mode": "float32"}), ("int8", {"representative_dataset": x[:200]})):
        measured = kc.measure_all({name: kc.convert(each, **options) for name, each in made.items()}, runs=200)
        for row in found:
            latency = measured[row["name"]].latency
            row[f"{mode}_ms"] = [latency.median_ms, latency.p10_ms, latency.p90_ms]
            row["cpu"] = latency.cpu
    for row in found:
        print(row)
    return found


def main(_: list[str]) -> None:
    data = fashion_mnist(_QUICK.value)
    epochs = 1 if _QUICK.value else EPOCHS
    parts = (data.x_train[:TRAINED], data.y_train[:TRAINED]), (data.x_test, data.y_test)
    seeds = [int(seed) for seed in _SEEDS.value]
    found = [row for seed in seeds for row in rows(seed, parts, epochs, TUNED)]
    mean = {name: np.mean([row["accuracy"] for row in found if row["name"] == name]) for name in ("whole", "auto")}
    goals = [at_least("accuracy kept at 2.4 times fewer MACs, points", 100 * (mean["auto"] - mean["whole"]), -0.5)]
    print_goals(goals)
    if not _QUICK.value:
        settings = {"trained": TRAINED, "epochs": EPOCHS, "tuned": TUNED, "target": TARGET}
        write_results("low_rank", found, goals, seeds=seeds, settings=settings)


if __name__ == "__main__":
    app.run(main)
