"""Make it fit: networks for a small and a larger microcontroller and for a phone, beside float and plain int8.

python benchmarks/fit_to.py [--quick] [--only=digits]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import app, flags
from common import Goal, at_least, at_most, print_goals, save_whole, write_results

import keras_compress as kc
from keras_compress.demo import datasets, models
from keras_compress.pipelines.fit_limits import board_limits
from keras_compress.runtime import deployed
from keras_compress.runtime.target import target

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
BATCH, MAX_DROP, HELD_OUT = 64, 0.01, 6


@dataclass(frozen=True)
class Case:
    """A network and what there is for it.

    Attributes:
        name: Of the row.
        build: Makes the network.
        data: Of `datasets.load`.
        samples: Training images.
        epochs: Of the float network, and of each step of a trial.
        target: Runtime.
        budget: Limits of the file.
        trials: Settings tried.
    """

    name: str
    build: Callable[[], keras.Model]
    data: str
    samples: int
    epochs: tuple[int, dict[str, int]]
    target: str
    budget: dict[str, float]
    trials: int


def _steps(channels: int, prune: int, cluster: int, quantize: int) -> dict[str, int]:
    return {"channels": channels, "prune": prune, "cluster": cluster, "quantize": quantize}


CASES = (
    Case("digits, 32 kB flash, 8 kB arena", models.digits_cnn, "digits", 1437, (25, _steps(20, 12, 8, 8)), "tflm",
         board_limits(None, "32kB", "8kB"), 24),
    Case("Fashion-MNIST, LeNet-5, 256 kB flash, 64 kB arena", models.lenet5, "fashion_mnist", 10_000,
         (8, _steps(4, 3, 2, 2)), "tflm", board_limits(None, "256kB", "64kB"), 16),
    Case("Fashion-MNIST, ResNet-20, a sixth of the float file's time on LiteRT", models.resnet20, "fashion_mnist",
         10_000, (6, _steps(3, 3, 2, 1)), "litert", {"latency": 1 / 6}, 12),
)  # fmt: skip
_QUICK = flags.DEFINE_bool("quick", False, "Little data, three trials; results are not written.")
_ONLY = flags.DEFINE_string("only", "", "Cases whose names begin so; results are not written.")
_KEEP = flags.DEFINE_string(
    "keep", "/tmp/keras_compress_fit_to", "Folder for networks and trials, where it goes on: remove it to begin anew."
)


def run(case: Case, quick: bool) -> list[dict[str, Any]]:
    """Rows of a case: float, int8 at once, and what the search found."""
    data = datasets.load(case.data)
    count = 300 if quick else case.samples
    x, y = data.x_train[:count], data.y_train[:count]
    held = np.arange(len(x)) % HELD_OUT == HELD_OUT - 1
    tested = (data.x_test[: 100 if quick else None], data.y_test[: 100 if quick else None])
    folder = Path(_KEEP.value) / f"{case.name.replace(' ', '_').replace(',', '')}{'_quick' if quick else ''}"
    model = _trained(case, x[~held], y[~held], folder / "float.keras", 1 if quick else case.epochs[0])
    files = {
        "float32": kc.convert(model, case.target, mode="float32").content,
        "int8": kc.convert(model, case.target, mode="int8", representative_dataset=x[:256]).content,
    }
    began = time.perf_counter()
    found = kc.fit_to(
        model,
        kc.Training(LOSS, 1 if quick else case.epochs[1], batch_size=BATCH).on(x[~held], y[~held]),
        case.budget,
        validation_data=(x[held], y[held]),
        test_data=tested,
        target=case.target,
        max_drop=MAX_DROP,
        trials=3 if quick else case.trials,
        folder=folder / "search",
    )
    seconds = time.perf_counter() - began
    rows = [{"case": case.name, "name": name, **_figures(case, content, tested)} for name, content in files.items()]
    for each in found.pareto:
        row = {"case": case.name, "name": "best" if each == found.best else "pareto", "setting": str(each.setting)}
        row |= {"validation": each.validation, "within": not each.reasons}
        rows.append({**row, **_figures(case, each.content, tested)})
    rows.append({
        "case": case.name, "name": "search", "met": found.met, "missing": found.missing, "seconds": round(seconds, 1),
        "baseline": found.baseline, "files": len(found.candidates), "stopped": len(found.stopped),
        "limits": dict(found.limits),
    })  # fmt: skip
    return rows


def _trained(case: Case, x: Any, y: Any, path: Path, epochs: int) -> keras.Model:
    if not path.is_file():
        keras.utils.set_random_seed(0)
        model = case.build()
        kc.Training(LOSS, epochs, 2e-3, batch_size=BATCH).on(x, y)(model)
        save_whole(model, path)
    return keras.models.load_model(path)


def _figures(case: Case, content: bytes, tested: tuple[Any, Any]) -> dict[str, Any]:
    (scores,) = deployed.run(target(case.target), content, tested[0])
    measured = kc.measure(content, target=case.target)
    return {
        "test": float((scores.argmax(-1) == tested[1]).mean()),
        "bytes": len(content),
        "arena": measured.memory.get("arena_minimum_bytes"),
        "latency_ms": round(measured.latency.median_ms, 4),
        "energy_uj": round(kc.estimate(content, "energy").figures["energy_uj"], 4),
    }


def goals_of(rows: list[dict[str, Any]]) -> list[Goal]:
    """Each budget is kept by a file that loses no more than was allowed, on data that no choice has seen, nearly."""
    goals = []
    for case in dict.fromkeys(row["case"] for row in rows):
        by_name = {row["name"]: row for row in rows if row["case"] == case}
        goals.append(at_least(f"{case}: a file within the budget", float(by_name["search"]["met"]), 1.0))
        if "best" in by_name:
            lost = 100 * (by_name["float32"]["test"] - by_name["best"]["test"])
            goals.append(at_most(f"{case}: points of test accuracy lost", lost, 200 * MAX_DROP))
    return goals


def main(_: list[str]) -> None:
    quick = _QUICK.value
    rows = []
    for case in CASES:
        if case.name.startswith(_ONLY.value):
            rows += run(case, quick)
            print(*(row for row in rows if row["case"] == case.name), sep="\n", flush=True)
    goals = goals_of(rows)
    print_goals(goals)
    if not quick and not _ONLY.value:
        settings = {case.name: {"trials": case.trials, "epochs": case.epochs, "budget": case.budget} for case in CASES}
        write_results("fit_to", rows, goals, seeds=[0], settings={"max_drop": MAX_DROP, **settings})


if __name__ == "__main__":
    app.run(main)
