"""What is lost with whole channels: criteria and ratios on Fashion-MNIST, trained equally; latency of large nets.

Every row of a seed starts from the same float model, removes a share of the channels of each group by one criterion,
and trains for the same few epochs.

    python benchmarks/structured.py
    python benchmarks/structured.py --speed_only     # VGG16, ResNet50, MobileNetV2 at half their MACs
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import keras
import numpy as np
import training
from absl import app, flags
from common import RESULTS, Goal, at_least, at_most, fashion_mnist, once, print_goals, write_results
from structured_speed import NETWORKS, speed_row
from structured_table import write_page

import keras_compress as kc
from keras_compress.demo import datasets, models

NETS = {"resnet8": models.resnet8, "vgg": functools.partial(models.vgg, filters=32, stem_strides=4)}
RATIOS = (0.3, 0.5, 0.7)
# What half of the channels of each group leave is about a quarter of the MACs.
MACS_REMOVED = 0.75
# Those whose goals are means over the seeds; the others take the first seed.
WITH_GOALS = ("l1", "fpgm", "taylor", "random")
CRITERIA = (*WITH_GOALS, "l2", "bn_gamma", "singe", "apoz", "pca", "legr")
FLOAT_EPOCHS, ROW_EPOCHS, SLIMMING_EPOCHS = 8, 3, 2
BATCH_SIZE, RATE = 128, 2e-3
SCORING_IMAGES = 1024
MOST_POINTS_LOST = 0.5
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of rows with a goal; the others take the first.")
_NETS = flags.DEFINE_multi_enum("net", list(NETS), list(NETS), "Networks.")
_CRITERIA = flags.DEFINE_multi_string("criterion", list(CRITERIA), "Criteria.")
_WORK = flags.DEFINE_string("work", "/tmp/keras_compress_structured", "Folder of what is finished already.")
_QUICK = flags.DEFINE_bool("quick", False, "Little data, to check the script; results stay in --work.")
_SPEED_ONLY = flags.DEFINE_bool("speed_only", False, "Measure the latency of large networks only.")


@dataclass(frozen=True)
class Row:
    """One line of the table: a network, a criterion, the share of what is removed, a seed.

    Attributes:
        scope: `"local"`: of the channels of each group; `"global"`: of all channels, by one ranking; `"macs"`: of the
            multiply-accumulates, by one ranking of all channels.
    """

    net: str
    criterion: str
    scope: str
    ratio: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.net}_{self.criterion}_{self.scope}_{self.ratio:.0%}_{self.seed}"


def fit(model: keras.Model, data: datasets.Dataset, epochs: int, seed: int) -> float:
    """Train as all rows are trained; returns seconds for each epoch."""
    epochs = 1 if _QUICK.value else epochs
    return training.fit(model, data, epochs=epochs, learning_rate=RATE, seed=seed, batch_size=BATCH_SIZE)


def accuracy(model: keras.Model, data: datasets.Dataset) -> float:
    outputs = model.predict(data.x_test, batch_size=500, verbose=0)
    return float((outputs.argmax(-1) == data.y_test).mean())


def float_model(net: str, seed: int, data: datasets.Dataset, work: Path) -> keras.Model:
    """The model that every row of a network and seed starts from."""
    path = work / f"{net}_{seed}.keras"
    if not path.is_file():
        keras.utils.set_random_seed(seed)
        model = NETS[net]()
        fit(model, data, FLOAT_EPOCHS, seed)
        model.save(path)
    return keras.models.load_model(path)


def float_row(net: str, seed: int, data: datasets.Dataset, work: Path) -> dict[str, Any]:
    """The unpruned model, as it is and trained as long as the rows are."""
    model = float_model(net, seed, data, work)
    before = accuracy(model, data)
    seconds = fit(model, data, ROW_EPOCHS, seed)
    row = {
        "net": net,
        "criterion": "none",
        "scope": "-",
        "ratio": 0.0,
        "seed": seed,
        "accuracy": before,
        "epoch_s": seconds,
    }
    return {**row, "trained_on": accuracy(model, data), **sizes(model)}


def sizes(model: keras.Model) -> dict[str, int]:
    """MACs and parameters, and bytes of the file as it is converted."""
    artifact = kc.convert(model, mode="float32")
    return {
        "macs": kc.channel_graph(model).macs(),
        "params": model.count_params(),
        "file_bytes": artifact.stats.raw_bytes,
    }


def pruned_row(row: Row, data: datasets.Dataset, work: Path) -> dict[str, Any]:
    """Prune the float model of the row's seed and train what is left."""
    model = float_model(row.net, row.seed, data, work)
    if row.criterion == "bn_gamma":
        # Network slimming: gammas learn which channels matter before they are removed.
        model = kc.add_slimming(model, strength=1e-4)
        fit(model, data, SLIMMING_EPOCHS, row.seed)
    few = slice(0, SCORING_IMAGES)
    begin = time.perf_counter()
    examples = (data.x_train[few], data.y_train[few])
    share: dict[str, Any] = {"ratio": row.ratio, "scope": row.scope}
    if row.scope == "macs":
        share = {"target": {"macs": 1.0 - row.ratio}, "scope": "global"}
    pruned = kc.prune_channels(model, criterion=_criterion(row), data=examples, round_to=1, **share)
    pruning_s = time.perf_counter() - begin
    at_once = accuracy(pruned, data)
    seconds = fit(pruned, data, ROW_EPOCHS, row.seed)
    found = asdict(row)
    times = {"pruning_s": pruning_s, "epoch_s": seconds}
    return {**found, "accuracy": accuracy(pruned, data), "at_once": at_once, **times, **sizes(pruned)}


def _criterion(row: Row) -> Any:
    settings = {"random": {"seed": row.seed}, "legr": {"macs": 1.0 - MACS_REMOVED}}
    return {"class_name": row.criterion, "config": settings.get(row.criterion, {})}


def accuracy_rows(data: datasets.Dataset, work: Path) -> list[dict[str, Any]]:
    """All rows, those with goals first, each kept when it is finished."""
    seeds = [int(seed) for seed in _SEEDS.value]
    found = []
    for row in _rows(seeds):
        if not any(r["net"] == row.net and r["seed"] == row.seed for r in found):
            path = work / f"{row.net}_float_{row.seed}.json"
            found.append(once(path, lambda row=row: float_row(row.net, row.seed, data, work)))
            print(found[-1], flush=True)
        found.append(once(work / f"{row.name}.json", lambda row=row: pruned_row(row, data, work)))
        print(found[-1], flush=True)
        keras.backend.clear_session()
    return found


def _rows(seeds: Sequence[int]) -> list[Row]:
    """Everything on the first seed; half of the channels on the others too, by the criteria with goals."""
    with_goals = [c for c in _CRITERIA.value if c in WITH_GOALS]
    others = [c for c in _CRITERIA.value if c not in WITH_GOALS]
    half = (("local", 0.5), ("global", 0.5))
    everything = (*(("local", ratio) for ratio in RATIOS), *half[1:], ("macs", MACS_REMOVED))
    choices = [(seeds[0], criterion, everything) for criterion in (*with_goals, *others)]
    choices += [(seed, criterion, half) for seed in seeds[1:] for criterion in with_goals]
    return [
        Row(net, criterion, scope, ratio, seed)
        for seed, criterion, shares in choices
        for net in _NETS.value
        for scope, ratio in shares
        # LeGR learns a ranking for a budget of MACs.
        if (criterion, scope) != ("legr", "global")
    ]


def summary_rows(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and spread over seeds, and the points lost beside the unpruned models of the same seeds."""
    base = {(r["net"], r["seed"]): r for r in found if r["criterion"] == "none"}
    keys = ("net", "criterion", "scope", "ratio")
    made = []
    for key in dict.fromkeys(tuple(r[k] for k in keys) for r in found):
        mine = [r for r in found if tuple(r[k] for k in keys) == key]
        lost = [100 * (base[r["net"], r["seed"]]["accuracy"] - r["accuracy"]) for r in mine]
        line = {**dict(zip(keys, key, strict=True)), "seeds": len(mine), "points_lost": mean(lost)}
        line["accuracy_spread"] = pstdev([r["accuracy"] for r in mine])
        for name in ("accuracy", "at_once", "trained_on", "epoch_s"):
            if name in mine[0]:
                line[name] = mean(r[name] for r in mine)
        for size in ("macs", "params", "file_bytes"):
            line[f"{size}_share"] = mean(r[size] / base[r["net"], r["seed"]][size] for r in mine)
        made.append(line)
    return made


def goals_of(found: Sequence[dict[str, Any]]) -> list[Goal]:
    """FPGM and Taylor beside L1, all beside random, and what half of the channels cost; on the same seeds each."""
    accuracies: dict[tuple[Any, ...], dict[int, float]] = {}
    for r in found:
        accuracies.setdefault((r["net"], r["scope"], r["ratio"], r["criterion"]), {})[r["seed"]] = r["accuracy"]
    goals = []
    for (net, scope, ratio, criterion), mine in accuracies.items():
        name = f"{net}, {scope} {ratio:.0%}, {criterion} ({len(mine)} seed{'s' * (len(mine) > 1)})"
        by_l1 = accuracies.get((net, scope, ratio, "l1"))
        if criterion in ("fpgm", "taylor") and by_l1:
            goals.append(at_least(f"{name}: points over L1", _points_over(mine, by_l1), 0.0))
        by_chance = accuracies.get((net, scope, ratio, "random"))
        if criterion not in ("none", "random") and by_chance:
            points = _points_over(mine, by_chance)
            goals.append(Goal(f"{name}: points over random", points, "> 0", points > 0))
        if criterion in ("l1", "fpgm", "taylor") and ratio == 0.5:
            lost = -_points_over(mine, accuracies[net, "-", 0.0, "none"])
            goals.append(at_most(f"{name}: points lost", lost, MOST_POINTS_LOST))
    return goals


def _points_over(mine: dict[int, float], other: dict[int, float]) -> float:
    """Mean difference of accuracies by seed, over the seeds of the first, in points."""
    return 100 * mean(mine[seed] - other[seed] for seed in mine)


def run_speed(work: Path, directory: Path) -> list[Goal]:
    """Latency of large networks, float32 and int8, beside the unpruned ones."""
    rows: list[dict[str, Any]] = []
    for network in NETWORKS:
        rows += once(work / f"speed_{network.name}.json", lambda n=network: {"rows": speed_row(n, _QUICK.value)})[
            "rows"
        ]
        print(rows[-1], flush=True)
    goals = [
        at_least(f"{row['network']} {row['mode']}: times faster at half the MACs", row["speedup"], row["goal"])
        for row in rows
    ]
    write_results("structured_speed", rows, goals, seeds=[0], settings={"threads": 1}, directory=directory)
    return goals


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"Expected flags only. Received: {argv[1:]}")
    work = Path(_WORK.value) / ("quick" if _QUICK.value else "full")
    work.mkdir(parents=True, exist_ok=True)
    directory = work if _QUICK.value else RESULTS
    np.seterr(all="raise", under="ignore")
    if _SPEED_ONLY.value:
        goals = run_speed(work, directory)
    else:
        found = accuracy_rows(fashion_mnist(_QUICK.value), work)
        rows = summary_rows(found)
        goals = goals_of(found)
        epochs = {"float_epochs": FLOAT_EPOCHS, "row_epochs": ROW_EPOCHS, "slimming_epochs": SLIMMING_EPOCHS}
        settings = {**epochs, "scoring_images": SCORING_IMAGES, "batch_size": BATCH_SIZE, "learning_rate": RATE}
        seeds = [int(seed) for seed in _SEEDS.value]
        write_results("structured", [*rows, *found], goals, seeds=seeds, settings=settings, directory=directory)
    if not _QUICK.value:
        write_page()
    print_goals(goals)


if __name__ == "__main__":
    app.run(main)
