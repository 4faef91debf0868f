"""Layers of low rank on Fashion-MNIST: accuracy, files and latency beside the whole network, with and without data.

python benchmarks/low_rank.py [--quick] [--seeds=0,1,2]
python benchmarks/low_rank.py --speed_only [--quick]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import app, flags
from common import Goal, at_least, fashion_mnist, once, print_goals, write_results
from keras import layers
from low_rank_speed import NETWORKS, RUNS, speed_rows

import keras_compress as kc
from keras_compress.convert.files import save_keras_atomic
from keras_compress.core.signal_to_noise import sqnr_db
from keras_compress.post_training.equalize import equalize

TRAINED, EPOCHS, TUNED, SAMPLES, BATCH = 20_000, 4, 2, 256, 500
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
# 2.4 times fewer multiplications, as Jaderberg et al. and Kim et al. report them.
TARGET = 1 / 2.4
# Shares of each layer's full rank, at which data are weighed or not.
SHARES = (0.5, 0.25)
WAYS: dict[str, dict[str, Any]] = {
    "svd": {"method": "svd"},
    "svd, with data": {"method": "svd", "data": True},
    "spatial": {"method": "spatial"},
    "tucker": {"method": "tucker"},
    "auto": {},
    "auto, with data": {"data": True},
}
WHOLE = "whole"
_QUICK = flags.DEFINE_bool("quick", False, "One seed, little data; results are not written.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Networks to train.")
_SPEED = flags.DEFINE_bool("speed_only", False, "Latency of large networks instead; results of their own.")
_KEEP = flags.DEFINE_string(
    "keep", "/tmp/keras_compress_low_rank", "Folder for networks, and for rows: remove it to begin anew."
)


def vgg() -> keras.Model:
    """Six 3x3 convolutions in three stages."""
    x = image = keras.Input((28, 28, 1))
    for filters in (16, 32, 64):
        for number in range(2):
            conv = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{filters}_{number}")
            x = layers.ReLU()(layers.BatchNormalization()(conv(x)))
        x = layers.MaxPooling2D()(x)
    x = layers.Dense(128, activation="relu", name="hidden")(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(10, name="logits")(x), name="vgg")


def accuracy(model: keras.Model, data: Any) -> float:
    """Share of test images that are classified rightly."""
    found = model.predict(data.x_test, batch_size=BATCH, verbose=0).argmax(-1)
    return float((found == data.y_test).mean())


class Seed:
    """The rows of one network: whole, factorized in each way, and at given ranks.

    Args:
        seed: Of weights, batches and samples.
        data: Fashion-MNIST.
        epochs: Of the whole network.
    """

    def __init__(self, seed: int, data: Any, epochs: int) -> None:
        self._seed, self._data, self._epochs = seed, data, epochs
        self._folder = Path(_KEEP.value) / (f"{seed}_quick" if _QUICK.value else str(seed))
        self._x, self._y = data.x_train[:TRAINED], data.y_train[:TRAINED]
        self._folder.mkdir(parents=True, exist_ok=True)

    def rows(self) -> list[dict[str, Any]]:
        """All of them; each is kept."""
        found = [self._once(WHOLE, self._whole), self._once("whole, trained on", self._trained_on)]
        found += [self._once(name, lambda name=name: self._factorized(name)) for name in WAYS]
        latencies = self._once("latency", self._latencies)
        found = [{**row, **latencies.get(row["name"], {})} for row in found]
        return found + [self._once(f"rank {share}", lambda share=share: self._at_rank(share)) for share in SHARES]

    def _once(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        def timed() -> dict[str, Any]:
            begin = time.process_time()
            row = make()
            print(row, f"{time.process_time() - begin:.0f} CPU s", flush=True)
            return row

        return once(self._folder / f"{name.replace(' ', '_').replace(',', '')}.json", timed)

    def _train(self, model: keras.Model, epochs: int, rate: float) -> None:
        kc.Training(LOSS, epochs=epochs, learning_rate=rate, seed=self._seed).on(self._x, self._y)(model)

    def _network(self) -> keras.Model:
        """The whole network, trained once."""
        path = self._folder / "whole.keras"
        if not path.is_file():
            keras.utils.set_random_seed(self._seed)
            model = vgg()
            self._train(model, self._epochs, 2e-3)
            save_keras_atomic(model, path)
        return keras.models.load_model(path)

    def _whole(self) -> dict[str, Any]:
        model = self._network()
        return self._row(WHOLE, model, accuracy=accuracy(model, self._data), macs=1.0)

    def _trained_on(self) -> dict[str, Any]:
        """As long as the factorized ones are."""
        model = self._network()
        self._train(model, TUNED, 1e-3)
        return self._row("whole, trained on", model, accuracy=accuracy(model, self._data), macs=1.0)

    def _samples(self, count: int = SAMPLES) -> Any:
        return self._x[np.random.default_rng(self._seed).permutation(len(self._x))[:count]]

    def _factorized(self, name: str) -> dict[str, Any]:
        model = self._network()
        options = {**WAYS[name], **({"data": self._samples()} if "data" in WAYS[name] else {})}
        made = kc.factorize(model, target={"macs": TARGET}, filters="re:conv", **options)
        before = accuracy(made, self._data)
        self._train(made, TUNED, 1e-3)
        macs = kc.Macs().of(made) / kc.Macs().of(model)
        return self._row(name, made, before=before, accuracy=accuracy(made, self._data), macs=macs)

    def _row(self, name: str, model: keras.Model, **figures: float) -> dict[str, Any]:
        """The figures, and the accuracy of int8 files: as it is, and with channels equalized across layers."""
        samples = self._samples(200)
        files = {
            "float32": kc.convert(model, mode="float32"),
            "int8": kc.convert(model, representative_dataset=samples),
            "int8, equalized": kc.convert(equalize(model), representative_dataset=samples),
        }
        row = {"name": name, "seed": self._seed, **figures}
        for kind, artifact in files.items():
            artifact.save(self._path(name, kind))
            row[f"{kind}, bytes"] = len(artifact.content)
            if kind != "float32":
                found = kc.measure(artifact, self._data.x_test, self._data.y_test)
                row[f"{kind}, accuracy"] = found.accuracy
        return row

    def _path(self, name: str, kind: str) -> Path:
        return self._folder / f"{name}_{kind}.tflite".replace(" ", "_").replace(",", "")

    def _latencies(self) -> dict[str, Any]:
        """Of all files of a kind, in turns."""
        found: dict[str, dict[str, Any]] = {name: {} for name in (WHOLE, *WAYS)}
        for kind in ("float32", "int8"):
            measured = kc.measure_all({name: self._path(name, kind) for name in found}, runs=200)
            for name, row in found.items():
                taken = measured[name].latency
                row[f"{kind}, ms"] = [taken.median_ms, taken.p10_ms, taken.p90_ms]
                row["cpu"] = taken.cpu
        return found

    def _at_rank(self, share: float) -> dict[str, Any]:
        """Both kinds of svd at the same ranks, before any training."""
        model = self._network()
        exact = model.predict(self._data.x_test, batch_size=BATCH, verbose=0)
        # The first one has 9 weights a filter: low ranks of it are another question.
        scan = [layer for layer in model.layers if layer.name.startswith("conv") and layer.name != "conv16_0"]
        ranks = [min(int(np.prod(layer.kernel.shape[:-1])), layer.filters) for layer in scan]
        rules = [{"layers": a.name, "rank": max(1, int(share * full))} for a, full in zip(scan, ranks, strict=True)]
        row: dict[str, Any] = {"name": f"rank {share:g}", "seed": self._seed, "share": share}
        for kind, options in (("plain", {}), ("with data", {"data": self._samples()})):
            made = kc.factorize(model, "svd", filters=[layer.name for layer in scan], rules=rules, **options)
            row[f"{kind}, accuracy"] = accuracy(made, self._data)
            found = made.predict(self._data.x_test, batch_size=BATCH, verbose=0)
            row[f"{kind}, sqnr_db"] = round(sqnr_db(exact, found), 2)
        return row


def goals_of(rows: Sequence[dict[str, Any]]) -> list[Goal]:
    """Accuracy is kept, data help at equal ranks, and int8 takes no more from thin layers than from whole ones."""

    def mean(name: str, key: str) -> float:
        return float(np.mean([row[key] for row in rows if row["name"] == name]))

    kept = 100 * (mean("auto", "accuracy") - mean(WHOLE, "accuracy"))
    goals = [at_least("accuracy kept at 2.4 times fewer MACs, points", kept, -0.5)]
    for share in SHARES:
        gained = 100 * (mean(f"rank {share:g}", "with data, accuracy") - mean(f"rank {share:g}", "plain, accuracy"))
        goals.append(at_least(f"data, at {share:g} of the full rank, points before training", gained, 0.0))
    kept = 100 * (mean("auto", "int8, equalized, accuracy") - mean("auto", "accuracy"))
    goals.append(at_least("auto, int8 after cross-layer equalization, points beside float", kept, -0.5))
    return goals


def speed(quick: bool) -> None:
    """Latency of large networks; a network is a step."""
    folder = Path(_KEEP.value)
    rows = []
    for each in NETWORKS:
        kept = folder / f"speed_{each.name}{'_quick' if quick else ''}.json"
        rows += once(kept, lambda each=each: {"rows": speed_rows(each, quick)})["rows"]
        print(*({k: v for k, v in row.items() if k != "layers"} for row in rows[-2:]), sep="\n", flush=True)
    goals = [at_least(f"{r['network']}, {r['mode']}, times faster", r["speedup"], r["goal"]) for r in rows]
    print_goals(goals)
    if not quick:
        write_results("low_rank_speed", rows, goals, seeds=[0], settings={"runs": RUNS, "target": 0.5})


def main(_: list[str]) -> None:
    quick = _QUICK.value
    if _SPEED.value:
        speed(quick)
        return
    data = fashion_mnist(quick)
    seeds = [int(seed) for seed in _SEEDS.value[: 1 if quick else None]]
    rows = [row for seed in seeds for row in Seed(seed, data, 1 if quick else EPOCHS).rows()]
    goals = goals_of(rows)
    print_goals(goals)
    if not quick:
        settings = {"trained": TRAINED, "epochs": EPOCHS, "tuned": TUNED, "target": TARGET, "shares": SHARES}
        write_results("low_rank", rows, goals, seeds=seeds, settings=settings)


if __name__ == "__main__":
    app.run(main)
