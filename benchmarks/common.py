"""What the benchmarks share: goals, and results as JSON that say on what machine and with which code they were made."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
# The code beside the benchmarks is what is measured, whatever is installed.
sys.path.insert(0, str(REPOSITORY))

from keras_compress.convert.files import write_atomic  # noqa: E402
from keras_compress.demo import datasets  # noqa: E402
from keras_compress.runtime.target import cpu_name  # noqa: E402

RESULTS = REPOSITORY / "benchmarks" / "results"
PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "tflite-micro", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Goal:
    """What a benchmark must show, and whether it did.

    Attributes:
        name: What is compared.
        value: What was measured.
        bound: What it must be, in words.
        met: Whether it is.
    """

    name: str
    value: float
    bound: str
    met: bool


def at_most(name: str, value: float, bound: float) -> Goal:
    """`value <= bound`."""
    return Goal(name, value, f"<= {bound:.6g}", bool(value <= bound))


def below(name: str, value: float, bound: float) -> Goal:
    """`value < bound`."""
    return Goal(name, value, f"< {bound:.6g}", bool(value < bound))


def at_least(name: str, value: float, bound: float) -> Goal:
    """`value >= bound`."""
    return Goal(name, value, f">= {bound:.6g}", bool(value >= bound))


def fashion_mnist(quick: bool) -> datasets.Dataset:
    """Fashion-MNIST, or a little of it."""
    data = datasets.load("fashion_mnist")
    if not quick:
        return data
    return datasets.Dataset(
        data.name, data.x_train[:1280], data.y_train[:1280], data.x_test[:200], data.y_test[:200], data.num_classes
    )


def machine() -> dict[str, Any]:
    """The machine, and how busy it was: ratios of times are worth less on a busy one."""
    return {
        "cpu": cpu_name(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def versions(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Python and the packages that figures depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return {**found, **(extra or {})}


def commit() -> str:
    """The commit measured, with `-dirty` where tracked files of the package differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    found = git("rev-parse", "HEAD") or "unknown"
    return found + ("-dirty" if git("status", "--porcelain", "-uno", "--", "keras_compress", "benchmarks/*.py") else "")


def write_results(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    goals: Sequence[Goal],
    *,
    seeds: Sequence[int],
    settings: Mapping[str, Any],
    extra_versions: Mapping[str, str] | None = None,
    directory: Path = RESULTS,
) -> Path:
    """Write `NAME.json`, whole or not at all, and return its path."""
    content = {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(extra_versions),
        "seeds": list(seeds),
        "settings": dict(settings),
        "goals": [asdict(goal) for goal in goals],
        "rows": list(rows),
    }
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.json"
    write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())
    return path


def print_goals(goals: Sequence[Goal]) -> None:
    """One line for each goal, those that were missed marked."""
    for goal in goals:
        print(f"{'met   ' if goal.met else 'MISSED'}  {goal.name}: {goal.value:.6g} ({goal.bound})")


def save_whole(model: Any, path: Path) -> None:
    """Save a Keras model, whole or not at all: a benchmark that is stopped meanwhile does not find half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"part_{path.name}")
    model.save(partial)
    partial.replace(path)


def once(path: Path, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """What `make()` returned, kept in a JSON file: a benchmark that was interrupted goes on where it stopped."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(make()).encode())
    found: dict[str, Any] = json.loads(path.read_text())
    return found
