"""What the runtimes and the files show: every figure of the cards."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from files import FILES
from numpy.typing import NDArray

import keras_compress as kc
from keras_compress.demo.datasets import Dataset
from keras_compress.runtime import deployed
from keras_compress.runtime.target import Target, target

# The first images of a test set, which the tests run again.
PART = 300
WARMUP = 20
PACKAGES = {"litert": "ai-edge-litert", "tflm": "tflite-micro"}


def here(names: Iterable[str]) -> dict[str, Target]:
    """The runtimes among these that this machine has."""
    return {name: runner for name in names if (runner := target(name)).available() is None}


def of_file(content: bytes) -> dict[str, Any]:
    """What is in the file."""
    stats = kc.inspect_tflite(content)
    return {
        "sha256": hashlib.sha256(content).hexdigest(),
        "raw_bytes": stats.raw_bytes,
        "gzip_bytes": stats.gzip_bytes,
        "weight_payload_bytes": stats.weight_payload_bytes,
        "sparsity": round(stats.sparsity, 6),
        "distinct_values": stats.distinct_values,
    }


def right(runner: Target, content: bytes, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.bool_]:
    """Which images the file itself classifies rightly, run by a runtime."""
    (logits,) = deployed.run(runner, content, x)
    found: NDArray[np.bool_] = logits.argmax(-1) == y
    return found


def of_runtime(name: str, runner: Target, content: bytes, data: Dataset) -> dict[str, Any]:
    """Images classified rightly, all and of the first `PART`; of TFLite-Micro the arena too."""
    found = right(runner, content, data.x_test, data.y_test)
    said: dict[str, Any] = {
        "right": int(found.sum()),
        "images": len(found),
        "right_of_part": int(found[:PART].sum()),
        "part": PART,
    }
    return said | ({"arena_bytes": runner.memory(content)["arena_bytes"]} if name == "tflm" else {})


def latencies(name: str, contents: Mapping[str, bytes], runs: int) -> dict[str, dict[str, Any]]:
    """Time of one invocation of each file, the files taking turns."""
    runner = target(name)
    found = runner.latency(contents, runs=runs, warmup=WARMUP)
    return {
        label: {
            "median_ms": round(each.median_ms, 5),
            "p10_ms": round(each.p10_ms, 5),
            "p90_ms": round(each.p90_ms, 5),
            "runs": each.runs,
            "delegate": each.delegate,
            "cpu": f"{each.cpu} ({each.architecture})",
            "version": importlib.metadata.version(PACKAGES[name]),
        }
        for label, each in found.items()
    }


def measured(contents: Mapping[str, bytes], sets: Mapping[str, Dataset], runs: int = 500) -> dict[str, dict[str, Any]]:
    """All figures, by file and, within a file, by runtime.

    Args:
        contents: File -> bytes.
        sets: Data sets by name.
        runs: Timed invocations of each.
    """
    found: dict[str, dict[str, Any]] = {}
    for label, content in contents.items():
        print(f"{label}: measuring", flush=True)
        file = FILES[label]
        found[label] = of_file(content) | {
            name: of_runtime(name, runner, content, sets[file.data]) for name, runner in here(file.runtimes).items()
        }
    for name in here(PACKAGES):
        print(f"timing on {name}", flush=True)
        mine = {label: content for label, content in contents.items() if name in found[label]}
        for label, times in latencies(name, mine, runs).items():
            found[label][name]["latency"] = times
    return found
