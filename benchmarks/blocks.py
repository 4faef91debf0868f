"""Compact networks on Fashion-MNIST beside plain ones: accuracy, multiplications, weights, files, latency, memory.

Plain ResNets of several widths are a curve; each family stands beside those of about its MACs and parameters. Then
SSPQ step by step, and a VGG whose convolutions become compact forms.

    python benchmarks/blocks.py [--quick] [--seeds=0,1,2]
    python benchmarks/blocks.py --moves_only [--quick]     # ways to shuffle and to shift
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import keras
import numpy as np
import training
from absl import app, flags
from blocks_moves import move_rows
from common import Goal, at_least, at_most, fashion_mnist, once, print_goals, save_whole, write_results

import keras_compress as kc
from keras_compress.blocks import models
from keras_compress.convert.freeze import has_points
from keras_compress.demo import datasets
from keras_compress.demo.models import vgg
from keras_compress.runtime.arena_probe import tflm_arena

TRAINED, EPOCHS, TUNED, RATE, BATCH, CALIBRATED = 20_000, 8, 3, 4e-3, 128, 200
PLAIN = "resnet"
# With a stem of stride 2 an epoch takes a quarter of the time.
SETTINGS: dict[str, Any] = {"stem_strides": 2}
WIDTHS = (0.5, 1.0, 1.5, 2.0)
FAMILIES = (
    *("mobilenet_v1", "mobilenet_v2", "mobilenet_v3", "efficientnet", "efficientnet_v2", "shufflenet_v1"),
    *("shufflenet_v2", "ghostnet", "shiftnet", "densenet", "resnext"),
)
# Families that goals are about, at a width that leaves so many times fewer MACs than the plain net.
WITH_GOALS = ("shufflenet_v1", "shufflenet_v2", "ghostnet")
FEWER_MACS, MOST_POINTS = 1.5, 0.3
SSPQ_TIMES, SSPQ_POINTS = 8.0, 1.5
FORMS = ("separable", "grouped", "ghost", "shift", "auto")
_QUICK = flags.DEFINE_bool("quick", False, "Little data, few rows, to check the script; results are not written.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Networks to train.")
_MOVES = flags.DEFINE_bool("moves_only", False, "Speed of shuffles and shifts instead; results of their own.")
_KEEP = flags.DEFINE_string("keep", "/tmp/keras_compress_blocks", "Folder for networks and rows: remove to begin anew.")

Build = Callable[[], keras.Model]


def macs_of(build: Build) -> float:
    return kc.Macs().of(build())


def net(name: str, width: float) -> Build:
    return functools.partial(models.MODELS[name], width=width, **SETTINGS)


def wide(name: str) -> float:
    """The largest width whose network has `FEWER_MACS` times fewer MACs than the plain one."""
    most = macs_of(net(PLAIN, 1.0)) / FEWER_MACS
    fitting = [w for w in np.arange(0.5, 4.01, 0.25).tolist() if macs_of(net(name, w)) <= most]
    return float(max(fitting))


def networks(quick: bool) -> dict[str, Build]:
    """Label -> network."""
    found = {f"{PLAIN} {width:g}": net(PLAIN, width) for width in (WIDTHS[:2] if quick else WIDTHS)}
    found["vgg"] = functools.partial(vgg, filters=16, stem_strides=2)
    found.update({name: net(name, 1.0) for name in (FAMILIES[:1] if quick else FAMILIES)})
    for name in WITH_GOALS[-1:] if quick else WITH_GOALS:
        width = wide(name)
        found[f"{name} {width:g}"] = net(name, width)
    return found


# The study: label -> network before weights are quantized.
STUDY: dict[str, Build] = {
    "ResNet": net("resnet", 2.0),
    "active shift": functools.partial(models.shiftnet, width=2.0, active=True, **SETTINGS),
    "inverted residual": functools.partial(models.sspq, width=2.0, **SETTINGS),
}


class Seed:
    """All rows of one seed; each is kept.

    Args:
        seed: Of weights and batches.
        data: Fashion-MNIST.
        quick: Whether to check the script only.
    """

    def __init__(self, seed: int, data: datasets.Dataset, quick: bool) -> None:
        self._seed, self._quick = seed, quick
        few = slice(0, TRAINED)
        split = (data.x_train[few], data.y_train[few], data.x_test, data.y_test)
        self._data = datasets.Dataset(data.name, *split, data.num_classes)
        self._folder = Path(_KEEP.value) / (f"{seed}_quick" if quick else str(seed))

    def rows(self) -> list[dict[str, Any]]:
        found = [self._once("family", name, build) for name, build in networks(self._quick).items()]
        found += [self._once("study", name, build) for name, build in STUDY.items()]
        found.append(self._kept("study", "SSPQ", self._sspq))
        forms = FORMS[:1] if self._quick else FORMS
        found += [self._kept("form", name, functools.partial(self._form, name)) for name in forms]
        times = once(self._folder / "latency.json", lambda: self._latencies([row["name"] for row in found]))
        return [{**row, **times.get(row["name"], {})} for row in found]

    def _once(self, kind: str, name: str, build: Build) -> dict[str, Any]:
        return self._kept(kind, name, lambda: self._trained(name, build))

    def _kept(self, kind: str, name: str, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        def timed() -> dict[str, Any]:
            keras.backend.clear_session()
            begin = time.process_time()
            row = {"kind": kind, "name": name, "seed": self._seed, **make(), "cpu_s": time.process_time() - begin}
            print(row, flush=True)
            return row

        return once(self._folder / f"{kind}_{name.replace(' ', '_')}.json", timed)

    def _fit(self, model: keras.Model, epochs: int, rate: float, teacher: Any = None) -> None:
        epochs = 1 if self._quick else epochs
        options: dict[str, Any] = {"epochs": epochs, "learning_rate": rate, "seed": self._seed, "batch_size": BATCH}
        training.fit(model, self._data, teacher=teacher, **options)

    def _model(self, name: str, build: Build) -> keras.Model:
        path = self._folder / f"{name.replace(' ', '_')}.keras"
        if not path.is_file():
            keras.utils.set_random_seed(self._seed)
            model = build()
            self._fit(model, EPOCHS, RATE)
            save_whole(model, path)
        return keras.models.load_model(path)

    def _accuracy(self, model: keras.Model) -> float:
        found = model.predict(self._data.x_test, batch_size=500, verbose=0).argmax(-1)
        return float((found == self._data.y_test).mean())

    def _trained(self, name: str, build: Build) -> dict[str, Any]:
        return self._figures(name, self._model(name, build))

    def _figures(self, name: str, model: keras.Model) -> dict[str, Any]:
        """Counts, accuracy of the model and of the int8 file, bytes of both files, memory on TFLite-Micro."""
        samples = {} if has_points(model) else {"representative_dataset": self._data.x_train[:CALIBRATED]}
        floats = kc.convert(kc.strip(model), mode="float32")
        integers, micro = (kc.convert(model, target, **samples) for target in ("litert", "tflm"))
        for kind, artifact in (("float32", floats), ("int8", integers)):
            artifact.save(self._path(name, kind))
        return {
            "macs": kc.Macs().of(kc.strip(model)),
            "params": model.count_params(),
            "accuracy": self._accuracy(model),
            "int8_accuracy": kc.measure(integers, self._data.x_test, self._data.y_test).accuracy,
            "float32_bytes": len(floats.content),
            "int8_bytes": len(integers.content),
            "arena": tflm_arena(micro.content),
        }

    def _path(self, name: str, kind: str) -> Path:
        return self._folder / f"{name.replace(' ', '_')}_{kind}.tflite"

    def _sspq(self) -> dict[str, Any]:
        """The last step: 1x1 convolutions with 4 bits by DoReFa, the others with 8."""
        model = self._model("inverted residual", STUDY["inverted residual"])
        rules = [{"layers": name, "weights": "int8"} for name in ("stem_conv", "logits")]
        model = kc.quantize_model(model, "dorefa4", "int8", rules=rules)
        self._fit(model, TUNED, RATE / 4)
        return self._figures("SSPQ", model)

    def _form(self, method: str) -> dict[str, Any]:
        """The VGG's convolutions in compact forms at half of its MACs, trained on with the VGG as teacher."""
        model = self._model("vgg", networks(self._quick)["vgg"])
        made = kc.compact(model, method, target={"macs": 0.5})
        before = self._accuracy(made)
        self._fit(made, TUNED, RATE / 2, kc.teacher_outputs(model, self._data.x_train, self._folder / "taught"))
        return {"before": before, **self._figures(method, made)}

    def _latencies(self, names: Sequence[str]) -> dict[str, Any]:
        """Of all files of a kind, in turns."""
        found: dict[str, dict[str, Any]] = {name: {} for name in names}
        for kind in ("float32", "int8"):
            measured = kc.measure_all({name: self._path(name, kind) for name in names}, runs=100)
            for name in names:
                taken = measured[name].latency
                found[name][f"{kind}_ms"] = [taken.median_ms, taken.p10_ms, taken.p90_ms]
        return found


def goals_of(rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """Ghost and shuffle beside the plain net, SSPQ beside ResNet."""

    def of(name: str, key: str, kind: str = "family") -> float:
        return float(mean(row[key] for row in rows if row["name"] == name and row["kind"] == kind))

    goals, plain = [], f"{PLAIN} 1"
    for name in dict.fromkeys(row["name"] for row in rows if row["kind"] == "family"):
        if name.split()[0] in WITH_GOALS and name not in WITH_GOALS:
            goals.append(at_least(f"{name}: times fewer MACs", of(plain, "macs") / of(name, "macs"), FEWER_MACS))
            lost = 100 * (of(plain, "accuracy") - of(name, "accuracy"))
            goals.append(at_most(f"{name}: points lost beside {plain}", lost, MOST_POINTS))
    times = of("ResNet", "float32_bytes", "study") / of("SSPQ", "int8_bytes", "study")
    goals.append(at_least("SSPQ: times fewer bytes than ResNet", times, SSPQ_TIMES))
    lost = 100 * (of("ResNet", "accuracy", "study") - of("SSPQ", "int8_accuracy", "study"))
    goals.append(at_most("SSPQ: points lost", lost, SSPQ_POINTS))
    return goals


def moves(quick: bool) -> None:
    """The ways to shuffle and to shift."""
    path = Path(_KEEP.value) / f"moves{'_quick' if quick else ''}.json"
    rows = once(path, lambda: {"rows": move_rows(quick)})["rows"]
    goals = []
    for row in rows:
        best = min(row["shift_ms"].values())
        chosen = row["shift_ms"]["slices" if row["target"] == "tflm" else "ones"]
        name = f"{row['target']}, {row['mode']}, {row['side']}x{row['side']}x{row['channels']}: shift, ms over the best"
        goals.append(at_most(name, chosen - best, 0.002))
    print_goals(goals)
    if not quick:
        write_results("blocks_moves", rows, goals, seeds=[0], settings={"threads": 1})


def main(_: list[str]) -> None:
    quick = _QUICK.value
    if _MOVES.value:
        moves(quick)
        return
    data = fashion_mnist(quick)
    seeds = [int(seed) for seed in _SEEDS.value[: 1 if quick else None]]
    rows = [row for seed in seeds for row in Seed(seed, data, quick).rows()]
    goals = goals_of(rows)
    print_goals(goals)
    if not quick:
        settings = {"trained": TRAINED, "epochs": EPOCHS, "tuned": TUNED, "learning_rate": RATE, "batch_size": BATCH}
        write_results("blocks", rows, goals, seeds=seeds, settings=settings)


if __name__ == "__main__":
    app.run(main)
