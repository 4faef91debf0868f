"""Stages of a compression side by side: what each one's file weighs, needs and gets right, all measured in one run."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from keras_compress.convert.compressed import expand_content
from keras_compress.report.causes import causes
from keras_compress.runtime import deployed
from keras_compress.runtime.child import RuntimeCrash, RuntimeTimeout
from keras_compress.runtime.energy_cost import energy_uj
from keras_compress.runtime.measure import Measurement, Metric, accuracy, measure_all
from keras_compress.runtime.target import cpu_name, machine_name, target
from keras_compress.tflite.arithmetic import arithmetic
from keras_compress.tflite.inspection import inspect_tflite

_PACKAGES = ("keras-compress", "tensorflow", "keras", "numpy", "ai-edge-litert", "tflite-micro")


@dataclass(frozen=True)
class Deployed:
    """A stage as it would be deployed.

    Attributes:
        content: The `.tflite` file.
        simulated: Metric of the Keras model that simulates it; `None` where there is none, or nothing to compare.
        target: Runtime that it was converted for, which tells its accuracy.
    """

    content: bytes
    simulated: float | None
    target: str = "litert"


def stage_rows(
    stages: Mapping[str, Deployed], x: Any, y: Any, metric: Metric | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Measure all stages, their timed invocations in turns.

    LiteRT decodes no weights: what is measured there of a file with encoded ones is its plain file.

    Args:
        stages: Name -> what is deployed.
        x: Test data.
        y: Labels.
        metric: `(outputs, y) -> float`; the accuracy by default.

    Returns:
        One row for each stage, as in report.json, and what is to be said of them.
    """
    plain = {name: expand_content(stage.content) for name, stage in stages.items()}
    measured = measure_all(plain, x, y, metric=metric)
    arenas, notes = _arenas(stages)
    rows = []
    for name, stage in stages.items():
        measurement, stats = measured[name], inspect_tflite(stage.content)
        shown = measurement.accuracy
        if y is not None and stage.target == "tflm" and arenas[name] is not None:
            outputs = deployed.run(target("tflm"), stage.content, x, name)
            shown = (metric or accuracy)(outputs, y)
            notes.append(f"{name}: its accuracy is TFLite-Micro's.")
        if plain[name] != stage.content:
            notes.append(
                f"{name}: its latency is its plain file's (`keras-compress expand`): LiteRT decodes no weights."
            )
        rows.append(
            {
                "name": name,
                "arithmetic": arithmetic(plain[name]),
                **({} if shown is None else {"accuracy": shown}),
                **({} if stage.simulated is None else {"simulated_accuracy": stage.simulated}),
                "raw_bytes": stats.raw_bytes,
                "gzip_bytes": stats.gzip_bytes,
                "weight_payload_bytes": stats.weight_payload_bytes,
                "sparsity": stats.sparsity,
                "distinct_values": stats.distinct_values,
                "litert_latency_ms": latency_entry(measurement),
                "tflm_arena_bytes": arenas[name],
                "litert_peak_memory_bytes": measurement.memory.get("peak_memory_bytes"),
                "energy_uj": energy_uj(stage.content),
            }
        )
    return rows, [_conditions(measured), *notes, *causes(rows)]


def _conditions(measured: Mapping[str, Measurement]) -> str:
    """What is needed to read the latencies."""
    latency = next(iter(measured.values())).latency
    return (
        f"Latency: LiteRT, {latency.delegate}, {latency.threads} thread, {latency.runs} runs in turns, "
        f"{latency.cpu}, {latency.architecture}."
    )


def latency_entry(found: Measurement) -> dict[str, float]:
    """A latency as JSON types."""
    latency = found.latency
    return {
        "median": latency.median_ms,
        "p10": latency.p10_ms,
        "p90": latency.p90_ms,
    }


def _arenas(stages: Mapping[str, Deployed]) -> tuple[dict[str, int | None], list[str]]:
    runner = target("tflm")
    reason = runner.available()
    if reason is not None:
        return dict.fromkeys(stages), [f"TFLM arena: {reason}."]
    arenas: dict[str, int | None] = {}
    notes = []
    for name, stage in stages.items():
        try:
            arenas[name] = runner.memory(stage.content, name)["arena_bytes"]
        except (ValueError, RuntimeCrash, RuntimeTimeout) as error:
            # A phone's model need not run on a microcontroller.
            arenas[name] = None
            notes.append(f"TFLM does not run {name}: {error}")
    return arenas, notes


def machine() -> dict[str, Any]:
    """The computer that the figures hold for."""
    return {
        "cpu": cpu_name(),
        "architecture": machine_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
    }


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that decide the figures; `None`: not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found
