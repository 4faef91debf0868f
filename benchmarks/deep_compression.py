"""Deep Compression as it runs: LeNets on Fashion-MNIST, a depthwise net of the size of person detection, encoding time.

Sizes are those of the `.tflite` files that TFLite-Micro executes; nothing is zipped.

    python benchmarks/deep_compression.py
    python benchmarks/deep_compression.py --net=lenet300 --seeds=0
    python benchmarks/deep_compression.py --taught --net=lenet5 --seeds=0   # what a teacher adds
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import keras
import numpy as np
import training
from absl import app, flags
from common import RESULTS, Goal, at_least, at_most, fashion_mnist, once, print_goals, save_whole, write_results
from deep_compression_speed import depthwise_row, encoding_row, equal_outputs
from deep_compression_table import write_page

import keras_compress as kc
from keras_compress.demo import datasets, models
from keras_compress.runtime.target import target

BATCH_SIZE, RATE = 128, 2e-3
# Integers are trained gently: at the rate of the other steps the nets only fit their training images better.
QUANTIZATION_RATE = 5e-4
START_EPOCHS = {"lenet300": 20, "lenet5": 8}
VALIDATION_IMAGES, EQUAL_IMAGES = 2_000, 200
# Size of the float file that the paper starts from, in bytes.
PAPER_BYTES = {"lenet300": 1_070_000, "lenet5": 1_720_000}
# tfmot's smallest file after gzip -9, in bytes, from `benchmarks/results/peers.json` and its docs.
TFMOT_GZIP_BYTES = {"lenet300": 35_500, "lenet5": 57_800}
# Where the float model is also trained with a rate that does not fall.
CONSTANT_RATE = ("lenet300",)
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds.")
_NETS = flags.DEFINE_multi_enum("net", ["lenet300", "lenet5"], ["lenet300", "lenet5"], "Networks.")
_WORK = flags.DEFINE_string("work", "/tmp/keras_compress_deep_compression", "Folder of what is finished already.")
_QUICK = flags.DEFINE_bool("quick", False, "Little data, to check the script; results stay in --work.")
_TAUGHT = flags.DEFINE_bool("taught", False, "Measure what a teacher adds to the first point of each net, no more.")


@dataclass(frozen=True)
class Point:
    """How far one row is compressed.

    Attributes:
        ratio: The goal: float bytes over those of the file.
        channels: Share of the neurons and filters cut out first.
        sparsity: Of all weights that are left.
        clusters: Different values of the layer with most weights; the others have 16.
        epochs: Of training after channels, each round of pruning, clustering, quantization.
    """

    ratio: int
    channels: float
    sparsity: float
    clusters: int
    epochs: Mapping[str, int]

    @property
    def total_epochs(self) -> int:
        return sum(self.epochs.values()) + (len(ROUNDS) - 1) * self.epochs["prune"]


# Pruning takes `ROUNDS` rounds of so many epochs.
_LENET300 = {"channels": 8, "prune": 3, "cluster": 8, "quantize": 4}
_LENET5 = {"channels": 4, "prune": 2, "cluster": 6, "quantize": 4}
ROUNDS = (0.5, 0.8, 1.0)
LARGEST = {"lenet300": "hidden1", "lenet5": "hidden"}
POINTS = {
    "lenet300": (
        Point(40, 0.52, 0.65, 4, _LENET300),
        Point(60, 0.667, 0.6, 3, _LENET300),
        Point(100, 0.82, 0.6, 3, _LENET300),
    ),
    "lenet5": (
        Point(39, 0.38, 0.5, 4, _LENET5),
        Point(60, 0.5, 0.6, 4, _LENET5),
        Point(100, 0.62, 0.65, 4, _LENET5),
    ),
}


def fit(model: keras.Model, data: datasets.Dataset, epochs: int, seed: int) -> float:
    """Train with Adam and a falling rate; returns seconds for each epoch."""
    epochs = 1 if _QUICK.value else epochs
    return training.fit(model, data, epochs=epochs, learning_rate=RATE / 2, seed=seed, batch_size=BATCH_SIZE)


def accuracy(model: keras.Model, data: datasets.Dataset) -> float:
    outputs = model.predict(data.x_test, batch_size=500, verbose=0)
    return float((outputs.argmax(-1) == data.y_test).mean())


def fresh(net: str, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return models.build(net, (28, 28, 1))


def float_row(net: str, seed: int, data: datasets.Dataset, work: Path) -> dict[str, Any]:
    """The float model that compression starts from, and one trained for as many epochs as compression takes in all."""
    start, long = started(net, seed, data, work), fresh(net, seed)
    total = START_EPOCHS[net] + POINTS[net][0].total_epochs
    seconds = fit(long, data, total, seed)
    content = kc.convert(long, mode="float32").content
    constant = constant_rate(net, seed, data, total) if net in CONSTANT_RATE else None
    return {
        "net": net,
        "ratio": 1,
        "seed": seed,
        "epochs": total,
        "epoch_s": seconds,
        "accuracy": accuracy(long, data),
        "start_accuracy": accuracy(start, data),
        "constant_rate_accuracy": constant,
        "bytes": len(content),
    }


def started(net: str, seed: int, data: datasets.Dataset, work: Path) -> keras.Model:
    """The float model that compression starts from, and the teacher of `--taught`."""
    path = work / f"{net}_{seed}.keras"
    if not path.is_file():
        model = fresh(net, seed)
        fit(model, data, START_EPOCHS[net], seed)
        save_whole(model, path)
    return keras.models.load_model(path)


def constant_rate(net: str, seed: int, data: datasets.Dataset, epochs: int) -> float:
    """Accuracy of the float model trained as `peers.py` trains: Adam with a rate that stays."""
    model = fresh(net, seed)
    model.compile(keras.optimizers.Adam(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(data.x_train, data.y_train, batch_size=BATCH_SIZE, epochs=1 if _QUICK.value else epochs, verbose=0)
    return accuracy(model, data)


def compressed_row(
    net: str, point: Point, seed: int, data: datasets.Dataset, work: Path, taught: bool = False
) -> dict[str, Any]:
    """Compress the seed's float model, and measure the file on TFLite-Micro with all test images."""
    name = f"{net}_{point.ratio}_{seed}" + ("_taught" if taught else "")
    few = slice(-VALIDATION_IMAGES, None)
    found = kc.deep_compression(
        keras.models.load_model(work / f"{net}_{seed}.keras"),
        data.x_train,
        data.y_train,
        # What the sensitivity of the layers is taken on; no budget, so that nothing is chosen by it.
        validation_data=(data.x_train[few], data.y_train[few]),
        max_drop=None,
        pruning=kc.Pruning([share * point.sparsity for share in ROUNDS], point.channels),
        clustering=kc.Clustering(rules=[{"layers": LARGEST[net], "number_of_clusters": point.clusters}]),
        training=kc.Training(
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            dict.fromkeys(point.epochs, 1) if _QUICK.value else point.epochs,
            {**dict.fromkeys(point.epochs, RATE), "quantize": QUANTIZATION_RATE},
            batch_size=BATCH_SIZE,
            seed=seed,
            teacher=said(net, seed, data, work) if taught else None,
        ),
        conversion=kc.Conversion(io="int8"),
        folder=work / name,
    )
    artifact = found.artifact
    plain = kc.convert(found.artifact.frozen, "tflm", io="int8")
    measured = kc.measure_all({"file": artifact, "plain": plain}, data.x_test, data.y_test, target="tflm")
    stats = kc.inspect_tflite(artifact.content)
    artifact.save(work / f"{name}.tflite")
    return {
        "net": net,
        "ratio": point.ratio,
        "seed": seed,
        "epochs": START_EPOCHS[net] + point.total_epochs,
        "accuracy": measured["file"].accuracy,
        "bytes": len(artifact.content),
        "plain_bytes": len(plain.content),
        "gzip_bytes": stats.gzip_bytes,
        "weights": sum(weight.elements for weight in stats.weights),
        "sparsity": stats.sparsity,
        "bits_per_weight": 8 * stats.weight_payload_bytes / sum(weight.elements for weight in stats.weights),
        "storage": {weight.name: weight.storage for weight in stats.weights},
        "arena_bytes": measured["file"].memory["arena_minimum_bytes"],
        "plain_arena_bytes": measured["plain"].memory["arena_minimum_bytes"],
        "latency_ratio": measured["file"].latency.median_ms / measured["plain"].latency.median_ms,
        "equal": equal(artifact, data),
    }


def said(net: str, seed: int, data: datasets.Dataset, work: Path) -> kc.TeacherOutputs:
    """What the float model of the seed says to the training images, computed once."""
    return kc.teacher_outputs(work / f"{net}_{seed}.keras", data.x_train, work / f"{net}_{seed}_outputs")


def taught_rows(data: datasets.Dataset, work: Path) -> list[dict[str, Any]]:
    """The first point of each net, taught by the float model that it starts from, and with labels alone."""
    found = []
    for seed in map(int, _SEEDS.value):
        for net in _NETS.value:
            teacher = accuracy(started(net, seed, data, work), data)
            point = POINTS[net][0]
            for taught in (True, False):
                made = once(
                    work / f"{net}_{point.ratio}_{seed}{'_taught' if taught else ''}.json",
                    lambda net=net, seed=seed, p=point, t=taught: compressed_row(net, p, seed, data, work, t),
                )
                kept = {key: made[key] for key in ("net", "ratio", "seed", "accuracy", "bytes")}
                found.append({**kept, "taught": taught, "teacher_accuracy": teacher})
                print(found[-1], flush=True)
                keras.backend.clear_session()
    return found


def equal(artifact: kc.Artifact, data: datasets.Dataset) -> bool:
    """Whether TFLite-Micro gives the plain int8 file's outputs, bit for bit, where nothing was cut out of that."""
    spec = target("tflm").describe(artifact.plain).inputs[0]
    images = data.x_test[:EQUAL_IMAGES] / spec.scales[0] + spec.zero_points[0]
    integers = np.clip(np.rint(images), -128, 127).astype(np.int8)
    return equal_outputs(artifact.content, artifact.plain, integers)


def lenet_rows(data: datasets.Dataset, work: Path) -> list[dict[str, Any]]:
    """All rows, each kept when it is finished."""
    found = []
    for seed in map(int, _SEEDS.value):
        for net in _NETS.value:
            path = work / f"{net}_float_{seed}.json"
            found.append(once(path, lambda net=net, seed=seed: float_row(net, seed, data, work)))
            print(found[-1], flush=True)
            for point in POINTS[net]:
                path = work / f"{net}_{point.ratio}_{seed}.json"
                row = once(path, lambda net=net, seed=seed, p=point: compressed_row(net, p, seed, data, work))
                found.append(row)
                print(row, flush=True)
                keras.backend.clear_session()
    return found


def summary_rows(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean over seeds, with the spread of accuracy."""
    made = []
    for net, ratio in dict.fromkeys((row["net"], row["ratio"]) for row in found):
        mine = [row for row in found if (row["net"], row["ratio"]) == (net, ratio)]
        line = {key: value for key, value in mine[0].items() if key not in ("seed", "epoch_s")}
        numbers = [key for key, value in line.items() if isinstance(value, (int, float)) and key not in ("ratio",)]
        line |= {key: mean(row[key] for row in mine) for key in numbers}
        line["seeds"], line["accuracy_spread"] = len(mine), pstdev([row["accuracy"] for row in mine])
        line["most_bytes"] = max(row["bytes"] for row in mine)
        line["equal"] = all(row.get("equal", True) for row in mine)
        line["reached"] = PAPER_BYTES[net] / line["bytes"]
        made.append(line)
    return made


def goals_of(lines: Sequence[dict[str, Any]]) -> list[Goal]:
    """Size and accuracy of each point, beside the float model of as many epochs."""
    goals = []
    for line in lines:
        net, ratio = line["net"], line["ratio"]
        if ratio == 1:
            continue
        float_line = next(row for row in lines if row["net"] == net and row["ratio"] == 1)
        most = PAPER_BYTES[net] / ratio
        goals.append(at_most(f"{net} {ratio}x: bytes of the largest file", line["most_bytes"], most))
        goals.append(at_least(f"{net} {ratio}x: accuracy", line["accuracy"], float_line["accuracy"]))
        constant = float_line.get("constant_rate_accuracy")
        if constant:
            goals.append(at_least(f"{net} {ratio}x: accuracy, float at a constant rate", line["accuracy"], constant))
        goals.append(at_most(f"{net} {ratio}x: bytes, tfmot's after gzip", line["most_bytes"], TFMOT_GZIP_BYTES[net]))
        goals.append(Goal(f"{net} {ratio}x: outputs equal to the plain file's", line["equal"], "yes", line["equal"]))
    return goals


def main(argv: list[str]) -> None:
    """Run what is not finished, and write results and page."""
    del argv
    work = Path(_WORK.value)
    work.mkdir(parents=True, exist_ok=True)
    data = fashion_mnist(_QUICK.value)
    directory = work if _QUICK.value else RESULTS
    seeds = [int(seed) for seed in _SEEDS.value]
    if _TAUGHT.value:
        rows = taught_rows(data, work)
        write_results("deep_compression_taught", rows, [], seeds=seeds, settings={}, directory=directory)
        return
    lines = summary_rows(lenet_rows(data, work))
    depthwise = once(work / "depthwise.json", depthwise_row)
    encoding = once(work / "encoding.json", encoding_row)
    goals = goals_of(lines)
    goals.append(at_most("seconds to encode 4 MB, the slower of two", encoding["seconds"], 2.0))
    goals.append(Goal("depthwise: outputs equal", depthwise["equal"], "yes", depthwise["equal"]))
    print_goals(goals)
    settings = {
        "batch_size": BATCH_SIZE,
        "learning_rate": RATE,
        "quantization_rate": QUANTIZATION_RATE,
        "rounds": ROUNDS,
        "start_epochs": START_EPOCHS,
        "points": {net: [asdict(point) for point in points] for net, points in POINTS.items()},
        "paper_bytes": PAPER_BYTES,
    }
    rows = [*lines, {"net": "depthwise", **depthwise}, {"net": "encoding", **encoding}]
    write_results("deep_compression", rows, goals, seeds=seeds, settings=settings, directory=directory)
    if not _QUICK.value:
        write_page()


if __name__ == "__main__":
    app.run(main, sys.argv)
