"""What few bits cost: weight and activation quantizers on Fashion-MNIST, simulated and deployed; their training time.

Every row starts from the same float model of its seed and trains for the same few epochs. First and last layer have
8 bits, as in the papers.

    python benchmarks/quantizers.py
    python benchmarks/quantizers.py --steps_only     # time of a training step with each quantizer
    python benchmarks/quantizers.py --taught --row="XNOR 1/1" --seeds=0     # what a teacher adds
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import keras
import numpy as np
import training
from absl import app, flags
from common import RESULTS, Goal, at_most, fashion_mnist, once, print_goals, save_whole, write_results
from quantizer_table import write_page
from timing import in_turns, summarize

import keras_compress as kc
from keras_compress.core import registry
from keras_compress.demo import datasets, models
from keras_compress.runtime import deployed
from keras_compress.runtime.kernels import runner_of

FLOAT_BATCH_SIZE = STEP_BATCH_SIZE = 128
ROW_BATCH_SIZE = 64
FLOAT_EPOCHS, ROW_EPOCHS = 8, 3
CALIBRATION_IMAGES = 500
LARGEST_STEP_RATIO = 1.5
# The first and the last layer, and what enters them.
ENDS = [
    {"layers": "first", "weights": "int8"},
    {"layers": "last", "weights": "int8", "activations": "int8"},
    {"layers": "stage3_conv2", "activations": "int8"},
]
WEIGHT_ENDS = [{"layers": ["first", "last"], "weights": "int8"}]
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of rows with a goal; the others take the first.")
_ROWS = flags.DEFINE_multi_string("row", None, "Rows to run, by name; all by default.")
_WORK = flags.DEFINE_string("work", "/tmp/keras_compress_quantizers", "Folder of what is finished already.")
_QUICK = flags.DEFINE_bool("quick", False, "Little data, to check the script; results stay in --work.")
_STEPS_ONLY = flags.DEFINE_bool("steps_only", False, "Measure training steps only.")
_TRAIN_ONLY = flags.DEFINE_bool("train_only", False, "Train and keep the models; run them on the device another time.")
_TAUGHT = flags.DEFINE_bool("taught", False, "Measure what a teacher adds to the rows named by --row, no more.")
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: As `--row` takes it.
        bits: Of weights and activations, for the reader.
        weights: Weight quantizer for `quantize_model`.
        activations: Activation quantizer likewise.
        goal: Most points of accuracy lost beside the float row; `None` for none, and one seed.
        learning_rate: At the start; it falls to 0 as a cosine. The fewer bits, the further weights have to go.
        batch_size: Of its training.
        activations_first: Epochs with quantized activations and float weights, of all that the row trains.
    """

    name: str
    bits: str
    weights: Any = None
    activations: Any = None
    goal: float | None = None
    learning_rate: float = 1e-3
    batch_size: int = ROW_BATCH_SIZE
    activations_first: int = 0


def _named(name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": name, "config": config}


def _both(bits: int, goal: float | None) -> list[Row]:
    """Weights and activations of as many bits."""
    lsq = _named("LSQActivation", bits=bits)
    pairs = {
        "PACT": (_named("DoReFa", bits=bits), _named("Pact", bits=bits), goal),
        "LSQ": (_named("LSQ", bits=bits, per_channel=True), lsq, goal),
        "DoReFa": (_named("DoReFa", bits=bits), _named("DoReFaActivation", bits=bits), None),
    }
    if bits <= 4:
        pairs["LQ-Nets"] = (_named("LQNets", bits=bits), lsq, goal)
    rate = 4e-3 if bits == 2 else 1e-3
    return [Row(f"{name} {bits}/{bits}", f"{bits}/{bits}", *pair, rate) for name, pair in pairs.items()]


def _rows() -> list[Row]:
    return [
        Row("float", "32/32", goal=0.0),
        *_both(4, 0.3),
        *_both(2, 1.0),
        Row("BWN 1/32", "1/32", "BWN", None, 1.0, 2e-3),
        Row("TWN ternary/32", "ternary/32", "TWN", None, 0.8, 2e-3),
        Row("TTQ ternary/32", "ternary/32", "TTQ", None, 0.8, 2e-3),
        Row("XNOR 1/1", "1/1", "BWN", "approx_sign", 4.0, 7e-3, batch_size=32, activations_first=1),
        *_both(8, None),
        Row("BWN + PACT 1/2", "1/2", "BWN", _named("Pact", bits=2), None, 4e-3),
        Row("DoReFa 1/2", "1/2", _named("DoReFa", bits=1), _named("DoReFaActivation", bits=2), None, 4e-3),
        Row("DoReFa 1/1", "1/1", _named("DoReFa", bits=1), _named("DoReFaActivation", bits=1), None, 4e-3),
    ]


def fit(
    model: keras.Model,
    data: datasets.Dataset,
    epochs: int,
    learning_rate: float,
    seed: int,
    batch_size: int,
    teacher: kc.TeacherOutputs | None = None,
) -> float:
    """Train; returns seconds for each epoch."""
    epochs = 1 if _QUICK.value else epochs
    settings = {"learning_rate": learning_rate, "seed": seed, "batch_size": batch_size}
    return training.fit(model, data, epochs=epochs, teacher=teacher, **settings)


def accuracy(outputs: Array, labels: Array) -> float:
    return float((outputs.argmax(-1) == labels).mean())


def float_model(seed: int, data: datasets.Dataset, work: Path) -> keras.Model:
    """The model that every row of a seed starts from."""
    path = work / f"base_{seed}.keras"
    if not path.is_file():
        keras.utils.set_random_seed(seed)
        model = models.vgg()
        fit(model, data, FLOAT_EPOCHS, 2e-3, seed, FLOAT_BATCH_SIZE)
        save_whole(model, path)
    return keras.models.load_model(path, compile=False)


def said(seed: int, data: datasets.Dataset, work: Path) -> kc.TeacherOutputs:
    """What the float model of a seed says to the training images, computed once."""
    return kc.teacher_outputs(float_model(seed, data, work), data.x_train, work / f"base_{seed}_outputs")


def trained(
    row: Row, seed: int, data: datasets.Dataset, path: Path, teacher: kc.TeacherOutputs | None = None
) -> dict[str, Any]:
    """Train a row from the float model of its seed, and keep it in a file."""
    model, activations = float_model(seed, data, path.parent), row.activations
    keras.utils.set_random_seed(seed)
    if row.activations_first:
        model, activations = kc.quantize_model(model, None, activations, rules=ENDS), None
        fit(model, data, row.activations_first, row.learning_rate, seed, row.batch_size, teacher)
    if row.weights is not None:
        model = kc.quantize_model(model, row.weights, activations, rules=ENDS if activations else WEIGHT_ENDS)
    seconds = fit(model, data, ROW_EPOCHS - row.activations_first, row.learning_rate, seed, row.batch_size, teacher)
    model.save(path)
    found = accuracy(model.predict(data.x_test, batch_size=500, verbose=0), data.y_test)
    return {"row": row.name, "bits": row.bits, "seed": seed, "accuracy": found, "epoch_s": seconds}


def on_the_device(row: Row, path: Path, data: datasets.Dataset) -> dict[str, Any]:
    """Freeze and convert a trained row, and run the test set on the device's kernels."""
    model = keras.models.load_model(path, compile=False)
    artifact = kc.convert(model, representative_dataset=data.x_train[:CALIBRATION_IMAGES])
    frozen = artifact.frozen.predict(data.x_test, batch_size=500, verbose=0)
    outputs = deployed.run(runner_of("xnnpack"), artifact.content, [data.x_test], row.name)[0]
    return {
        "frozen_accuracy": accuracy(frozen, data.y_test),
        "deployed_accuracy": accuracy(outputs, data.y_test),
        "argmax_agreement": float((outputs.argmax(-1) == frozen.argmax(-1)).mean()),
        "raw_bytes": artifact.stats.raw_bytes,
        "gzip_bytes": artifact.stats.gzip_bytes,
    }


def accuracy_rows(data: datasets.Dataset, work: Path) -> list[dict[str, Any]]:
    seeds = [int(seed) for seed in _SEEDS.value]
    chosen = [row for row in _rows() if not _ROWS.value or row.name in _ROWS.value]
    found = []
    for seed in seeds:
        for row in chosen:
            if row.goal is None and seed != seeds[0]:
                continue
            path = work / f"{row.name.replace(' ', '_').replace('/', '-')}_{seed}.keras"
            result = once(
                path.with_suffix(".trained.json"), lambda row=row, seed=seed, path=path: trained(row, seed, data, path)
            )
            if row.weights is not None and not _TRAIN_ONLY.value:
                result |= once(
                    path.with_suffix(".device.json"), lambda row=row, path=path: on_the_device(row, path, data)
                )
            found.append(result)
            print(result, flush=True)
            keras.backend.clear_session()
    return found


def taught_rows(data: datasets.Dataset, work: Path) -> list[dict[str, Any]]:
    """The rows of `--row`, taught by the float model that they start from, and with labels alone."""
    found = []
    for seed in map(int, _SEEDS.value):
        for row in (row for row in _rows() if row.name in _ROWS.value):
            for taught in (True, False):
                name = row.name.replace(" ", "_").replace("/", "-") + ("_taught" if taught else "")
                path = work / f"{name}_{seed}.keras"
                teacher = said(seed, data, work) if taught else None
                result = once(
                    path.with_suffix(".trained.json"),
                    lambda row=row, seed=seed, path=path, t=teacher: trained(row, seed, data, path, t),
                )
                result |= once(
                    path.with_suffix(".device.json"), lambda row=row, path=path: on_the_device(row, path, data)
                )
                found.append({**result, "taught": taught})
                print(found[-1], flush=True)
                keras.backend.clear_session()
    return found


def goals_of(found: list[dict[str, Any]]) -> list[Goal]:
    """Points lost beside the float row of the same seeds, on the device."""
    base = {row["seed"]: row["accuracy"] for row in found if row["row"] == "float"}
    goals = []
    for row in _rows():
        mine = [r for r in found if r["row"] == row.name and r["seed"] in base]
        if row.goal is None or row.weights is None or not mine:
            continue
        lost = 100 * mean(base[r["seed"]] - r["deployed_accuracy"] for r in mine)
        goals.append(at_most(f"{row.name}: points lost beside float, mean of {len(mine)} seeds", lost, row.goal))
    return goals


def summary_rows(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and spread over seeds."""
    made = []
    for row in _rows():
        mine = [r for r in found if r["row"] == row.name]
        if not mine:
            continue
        line: dict[str, Any] = {"row": row.name, "bits": row.bits, "seeds": len(mine)}
        for key in ("accuracy", "frozen_accuracy", "deployed_accuracy", "epoch_s", "gzip_bytes"):
            values = [r[key] for r in mine if key in r]
            if values:
                line[key] = mean(values)
                line[f"{key}_spread"] = pstdev(values)
        base = [r["accuracy"] for r in found if r["row"] == "float" and r["seed"] in {m["seed"] for m in mine}]
        if "deployed_accuracy" in line and len(base) == len(mine):
            line["points_lost"] = 100 * (mean(base) - line["deployed_accuracy"])
        made.append(line)
    return made


def step_of(model: keras.Model, x: Any, y: Any) -> Callable[[], object]:
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    return lambda: model.train_on_batch(x, y)


def step_rows(data: datasets.Dataset) -> list[dict[str, Any]]:
    """Time of a training step with each quantizer over the float step, a few at a time in turns with it."""
    x, y = data.x_train[:STEP_BATCH_SIZE], data.y_train[:STEP_BATCH_SIZE]
    rows = []
    kinds = ("weight_transform", "activation_quantizer", "gradient_quantizer")
    methods = [(kind, name) for kind in kinds for name in registry.entries(kind)]
    for kind, name in methods:
        cls = registry.lookup(kind, name)
        if kind == "weight_transform" and not issubclass(cls, kc.WeightQuantizer) or name == "FixedGrid":
            continue
        keras.utils.set_random_seed(0)
        plain = models.vgg()
        made = cls(**cls.samples()[0])
        argument = {"weight_transform": "weights", "activation_quantizer": "activations"}.get(kind, "gradients")
        quantized = kc.quantize_model(plain, **{"weights": None, "activations": None, argument: made})
        times = in_turns({"float": step_of(plain, x, y), name: step_of(quantized, x, y)}, 10, 4 if _QUICK.value else 12)
        rows.append({"kind": kind, "quantizer": name, **summarize(times)[name]})
        print(rows[-1], flush=True)
        keras.backend.clear_session()
    return rows


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"Expected flags only. Received: {argv[1:]}")
    work = Path(_WORK.value) / ("quick" if _QUICK.value else "full")
    work.mkdir(parents=True, exist_ok=True)
    data = fashion_mnist(_QUICK.value)
    directory = work if _QUICK.value else RESULTS
    settings: dict[str, Any] = {"model": "vgg 16-32-64", "batch_size": ROW_BATCH_SIZE}
    if _STEPS_ONLY.value:
        rows = step_rows(data)
        goals = [at_most(f"{r['quantizer']}: step over float", r["ratio"], LARGEST_STEP_RATIO) for r in rows]
        write_results("quantizer_steps", rows, goals, seeds=[0], settings=settings, directory=directory)
    elif _TAUGHT.value:
        rows, seeds = taught_rows(data, work), [int(seed) for seed in _SEEDS.value]
        write_results("quantizers_taught", rows, [], seeds=seeds, settings=settings, directory=directory)
        return
    elif _TRAIN_ONLY.value:
        accuracy_rows(data, work)
        return
    else:
        found = accuracy_rows(data, work)
        goals = goals_of(found)
        settings |= {"float_epochs": FLOAT_EPOCHS, "row_epochs": ROW_EPOCHS, "first_and_last_layer": "8 bits"}
        rows = [*summary_rows(found), *found]
        write_results(
            "quantizers", rows, goals, seeds=[int(s) for s in _SEEDS.value], settings=settings, directory=directory
        )
    if not _QUICK.value:
        write_page()
    print_goals(goals)


if __name__ == "__main__":
    app.run(main)
