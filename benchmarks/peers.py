"""Prune, cluster and quantize LeNets on Fashion-MNIST with this library and with tfmot, in turn.

Both sides start from the same weights and see the same batches. Each runs in a process of its own; a run that was
interrupted goes on at the stage where it stopped.

    python benchmarks/peers.py --tfmot_python=/path/to/python/that/has/tfmot
"""

from __future__ import annotations

import gzip
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from common import RESULTS, Goal, at_least, at_most, below, once, print_goals, write_results
from peers_data import BATCH_SIZE, CLUSTERS, EPOCHS, FINAL_SPARSITY, INITIAL_SPARSITY, PRUNING_STEPS, Job

import keras_compress as kc
from keras_compress.demo import datasets

HERE = Path(__file__).resolve().parent
SIDES = ("keras_compress", "tfmot")
STEP_GOALS = {
    "lenet5": {"pruning": 1.05, "clustering": 1.3, "quantization": 1.3, "pruning, clustering, quantization": 1.5},
    "lenet300": {"pruning": 1.1, "clustering": 1.6, "quantization": 1.6, "pruning, clustering, quantization": 2.0},
}
MOST_GZIP = 1.01
MOST_ACCURACY_LOST = 0.003
_PYTHON = flags.DEFINE_string("tfmot_python", sys.executable, "Interpreter that has tfmot, tf_keras and TensorFlow.")
_MODELS = flags.DEFINE_list("models", ["lenet300", "lenet5"], "Models, out of lenet300 and lenet5.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds; accuracies and sizes are means over them.")
_WORK = flags.DEFINE_string("work", "/tmp/keras_compress_peers", "Folder of what is finished already.")
_QUICK = flags.DEFINE_bool("quick", False, "One epoch on little data, to check the script; results stay in --work.")


def prepare_data(work: Path) -> None:
    """Write Fashion-MNIST as bytes for both sides."""
    path = work / "data.npz"
    if path.is_file():
        return
    work.mkdir(parents=True, exist_ok=True)
    data = datasets.load("fashion_mnist")
    images = {name: np.round(getattr(data, name) * 255).astype("uint8") for name in ("x_train", "x_test")}
    unfinished = work / "unfinished.npz"
    np.savez(unfinished, **images, y_train=data.y_train, y_test=data.y_test)
    os.replace(unfinished, path)


def run_side(job: Job) -> None:
    """Run one side's job in its own interpreter; its noise is kept in a log."""
    ours = job.side == "keras_compress"
    script = HERE / ("peers_ours.py" if ours else "peers_tfmot.py")
    arguments = [str(job.work), job.model, str(job.seed), "quick" if job.quick else "full"]
    search = os.pathsep.join(filter(None, [str(HERE.parent) if ours else "", os.environ.get("PYTHONPATH", "")]))
    job.folder.mkdir(parents=True, exist_ok=True)
    log = job.folder / "log.txt"
    with log.open("ab") as stream:
        done = subprocess.run(
            [sys.executable if ours else _PYTHON.value, str(script), *arguments],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": search},
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise SystemExit(f"{script.name} failed on {job.model}, seed {job.seed}. The end of {log}:\n{tail}")


def stage_row(job: Job, stage: str) -> dict[str, Any]:
    """Accuracy and sizes of one stage, the deployed accuracy by the same runtime for both sides."""
    content = (job.folder / f"{stage}.tflite").read_bytes()
    _, _, x_test, y_test = job.arrays()
    measured = once(
        job.folder / f"{stage}_deployed.json", lambda: {"accuracy": kc.measure(content, x_test, y_test).accuracy}
    )
    return {
        "model": job.model,
        "side": job.side,
        "seed": job.seed,
        "stage": stage,
        "test_accuracy": json.loads((job.folder / f"{stage}.json").read_text())["test_accuracy"],
        "deployed_accuracy": measured["accuracy"],
        "raw_bytes": len(content),
        "gzip_bytes": len(gzip.compress(content, 9, mtime=0)),
    }


def step_rows(job: Job) -> list[dict[str, Any]]:
    """Step times of one side."""
    rows = []
    for stage in ("step_time", "step_time_xla"):
        if not job.finished(stage):
            continue
        for name, figures in json.loads((job.folder / f"{stage}.json").read_text()).items():
            rows.append({"model": job.model, "side": job.side, "stage": stage, "transforms": name, **figures})
    return rows


def mean(rows: list[dict[str, Any]], model: str, side: str, stage: str, key: str) -> float:
    """Mean over the seeds."""
    wanted = {"model": model, "side": side, "stage": stage}
    return statistics.fmean(row[key] for row in rows if all(row.get(k) == v for k, v in wanted.items()))


def stage_goals(rows: list[dict[str, Any]], model: str) -> list[Goal]:
    """Sizes and accuracies against tfmot's."""
    goals = []
    for stage in EPOCHS:
        ours, theirs = (mean(rows, model, side, stage, "gzip_bytes") for side in SIDES)
        compare, bound = (at_most, MOST_GZIP) if stage in ("float", "pruned") else (below, 1.0)
        goals.append(compare(f"{model}, {stage}: gzip bytes over tfmot's", ours / theirs, bound))
        for key in ("test_accuracy", "deployed_accuracy"):
            ours, theirs = (mean(rows, model, side, stage, key) for side in SIDES)
            name = f"{model}, {stage}: {key.replace('_', ' ')}, tfmot's {theirs:.4f}"
            goals.append(at_least(name, ours, theirs - MOST_ACCURACY_LOST))
    return goals


def step_goals(rows: list[dict[str, Any]], model: str) -> list[Goal]:
    """Step time over the float step."""
    ratios = {
        (row["side"], row["transforms"]): row["ratio"]
        for row in rows
        if row["model"] == model and row["stage"] == "step_time"
    }
    return [
        at_most(
            f"{model}, {name}: step time over the float step, tfmot's {ratios.get(('tfmot', name), float('nan')):.2f}",
            ratios[("keras_compress", name)],
            bound,
        )
        for name, bound in STEP_GOALS[model].items()
        if ("keras_compress", name) in ratios
    ]


def print_table(rows: list[dict[str, Any]]) -> None:
    """The stages, side by side."""
    print(f"{'model':9} {'stage':10} {'side':15} {'accuracy':>9} {'deployed':>9} {'raw kB':>8} {'gzip kB':>8}")
    for row in (row for row in rows if "gzip_bytes" in row):
        print(
            f"{row['model']:9} {row['stage']:10} {row['side']:15} {row['test_accuracy']:9.4f} "
            f"{row['deployed_accuracy']:9.4f} {row['raw_bytes'] / 1e3:8.1f} {row['gzip_bytes'] / 1e3:8.1f}"
        )
    for row in (row for row in rows if "ratio" in row):
        kind = "XLA" if row["stage"] == "step_time_xla" else "graph"
        print(f"{row['model']:9} {row['side']:15} {kind:6} {row['transforms']:34} {row['ratio']:.3f}")


def main(_: list[str]) -> None:
    work = Path(_WORK.value) / ("quick" if _QUICK.value else "full")
    prepare_data(work)
    rows: list[dict[str, Any]] = []
    for model in _MODELS.value:
        for seed in map(int, _SEEDS.value):
            for side in SIDES:
                job = Job(work, side, model, seed, _QUICK.value)
                print(f"{model}, seed {seed}: {side} ...", file=sys.stderr, flush=True)
                run_side(job)
                rows += [stage_row(job, stage) for stage in EPOCHS] + step_rows(job)
    goals = [goal for model in _MODELS.value for goal in stage_goals(rows, model) + step_goals(rows, model)]
    settings = {
        "data": "fashion_mnist",
        "batch_size": BATCH_SIZE,
        "optimizer": "Adam, 0.001",
        "epochs": EPOCHS,
        "pruning": f"PolynomialDecay({INITIAL_SPARSITY}, {FINAL_SPARSITY}) over {PRUNING_STEPS} steps",
        "clusters": CLUSTERS,
        "step_time": "blocks of 100 steps in turns; ratio of the medians; graph mode, and XLA beside it",
    }
    path = write_results(
        "peers",
        rows,
        goals,
        seeds=[int(seed) for seed in _SEEDS.value],
        settings=settings,
        extra_versions=json.loads((job.folder / "versions.json").read_text()),
        directory=work if _QUICK.value else RESULTS,
    )
    print_table(rows)
    print_goals(goals)
    print(path)


if __name__ == "__main__":
    app.run(main)
