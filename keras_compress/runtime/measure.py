"""`measure`: size, latency, memory and accuracy of a deployed model, each beside its baseline."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from keras_compress.convert.artifact import Artifact
from keras_compress.core import progress
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.shown import Shown
from keras_compress.runtime import deployed
from keras_compress.runtime.target import Latency, Target, target
from keras_compress.tflite.inspection import inspect_tflite

Model = Artifact | bytes | str | os.PathLike[str]
Metric = Callable[[list[NDArray[Any]], Any], float]
FEWEST_RUNS = 50


@dataclass(frozen=True, repr=False)
class Measurement(Shown):
    """What a runtime showed of one file.

    Attributes:
        label: Name of the model.
        target: Runtime.
        raw_bytes: Size of the file: what the device holds.
        gzip_bytes: Size after `gzip -9`: what a download moves.
        weight_payload_bytes: Bytes of the weight tensors alone.
        sparsity: Share of zeros among the weights in the file.
        distinct_values: Weight tensor -> distinct values in the file.
        latency: Time of one invocation; the models of one call took turns.
        memory: What the model needs at run time, in bytes.
        accuracy: Of the deployed file on all the data given; `None` without data.
    """

    label: str
    target: str
    raw_bytes: int
    gzip_bytes: int
    weight_payload_bytes: int
    sparsity: float
    distinct_values: dict[str, int]
    latency: Latency
    memory: dict[str, int]
    accuracy: float | None

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines."""
        taken, memory = self.latency, ", ".join(f"{key} {value:,}" for key, value in self.memory.items())
        spread = f"p10 {taken.p10_ms:.4g}, p90 {taken.p90_ms:.4g}, {taken.runs} runs"
        where = f"{taken.threads} thread, {taken.delegate}, {taken.cpu}"
        most = max(self.distinct_values.values(), default=0)
        return f"Measurement of {self.label} on {self.target}", [
            ("file", f"{self.raw_bytes:,} B ({self.gzip_bytes:,} B gzipped)"),
            (
                "weights",
                f"{self.weight_payload_bytes:,} B, {self.sparsity:.1%} zeros, at most {most:,} values in a tensor",
            ),
            ("latency", f"{taken.median_ms:.4g} ms ({spread}; {where})"),
            ("memory", memory),
            ("accuracy", "" if self.accuracy is None else f"{self.accuracy:.6g}"),
        ]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


@overload
def measure(
    model: Model,
    x: Any = ...,
    y: Any = ...,
    *,
    target: str = ...,
    baseline: None = ...,
    runs: int = ...,
    warmup: int = ...,
    threads: int = ...,
    delegate: str | None = ...,
    metric: Metric | None = ...,
    time_limit_s: float = ...,
    memory_limit_bytes: int | None = ...,
    alt_decompression_memory_bytes: int = ...,
) -> Measurement: ...


@overload
def measure(
    model: Model,
    x: Any = ...,
    y: Any = ...,
    *,
    target: str = ...,
    baseline: Model,
    runs: int = ...,
    warmup: int = ...,
    threads: int = ...,
    delegate: str | None = ...,
    metric: Metric | None = ...,
    time_limit_s: float = ...,
    memory_limit_bytes: int | None = ...,
    alt_decompression_memory_bytes: int = ...,
) -> dict[str, Measurement]: ...


def measure(
    model: Model,
    x: Any = None,
    y: Any = None,
    *,
    target: str = "litert",
    baseline: Model | None = None,
    runs: int = 50,
    warmup: int = 10,
    threads: int = 1,
    delegate: str | None = None,
    metric: Metric | None = None,
    time_limit_s: float = 120.0,
    memory_limit_bytes: int | None = None,
    alt_decompression_memory_bytes: int = 0,
) -> Measurement | dict[str, Measurement]:
    """Measure a converted model on its runtime, in a child process with a time limit.

    Args:
        model: What `convert` returned, the bytes of a `.tflite` file, or its path.
        x: Test data as for `model.predict`; without `x` and `y` no accuracy is given.
        y: Labels: class numbers, one-hot rows, or 0 / 1 for one output. Without them `x` is checked against the inputs.
        target: `"litert"`, `"litert_web"` (LiteRT.js in Node) or `"tflm"`, whose latency is the host's, not a
            microcontroller's.
        baseline: A model to be timed in turns with this one.
        runs: Timed invocations, at least 50.
        warmup: Invocations before that.
        threads: Threads of LiteRT.
        delegate: Of LiteRT: `"kc_binary"` computes binary layers by counting bits (docs/native.md); it is compiled
            when it is first asked for.
        metric: `(outputs, y) -> float` in place of the accuracy; outputs are real-valued arrays. A model with several
            outputs needs one: which of them the labels belong to is not in the file.
        time_limit_s: Longest time without progress, in seconds; the timed runs end after ten times that.
        memory_limit_bytes: Address space of the child process; by default 4 GiB, or 16 times the model if that is more.
        alt_decompression_memory_bytes: Of TFLM: memory beside the arena that encoded weights are decoded to.

    Returns:
        A `Measurement`; with a baseline `{"model": ..., "baseline": ...}`.

    Raises:
        ValueError: For a file that is not a `.tflite` file, or data that do not fit it.
        RuntimeError: If the target or the delegate is not to be had here.
        RuntimeCrash: If the runtime dies of the file.
        RuntimeTimeout: If it does not answer.
    """
    models = {"model": model} if baseline is None else {"model": model, "baseline": baseline}
    options: dict[str, Any] = {
        "time_limit_s": time_limit_s,
        "memory_limit_bytes": memory_limit_bytes,
        "alt_decompression_memory_bytes": alt_decompression_memory_bytes,
        "delegate": delegate,
    }
    measured = measure_all(
        models, x, y, target=target, runs=runs, warmup=warmup, threads=threads, metric=metric, **options
    )
    return measured["model"] if baseline is None else measured


@progress.shown("measuring")
@global_state_kept()
def measure_all(
    models: Mapping[str, Model],
    x: Any = None,
    y: Any = None,
    *,
    target: str = "litert",
    runs: int = 50,
    warmup: int = 10,
    threads: int = 1,
    delegate: str | None = None,
    metric: Metric | None = None,
    time_limit_s: float = 120.0,
    memory_limit_bytes: int | None = None,
    alt_decompression_memory_bytes: int = 0,
) -> dict[str, Measurement]:
    """`measure` for several models, whose timed invocations take turns. Keys are labels; see `measure`."""
    if runs < FEWEST_RUNS:
        raise ValueError(f"Expected `runs` >= {FEWEST_RUNS}. Received: runs={runs}")
    if x is None and y is not None:
        raise ValueError("Expected `x` for the labels `y`. Received: x=None")
    limits = {"time_limit_s": time_limit_s, "memory_limit_bytes": memory_limit_bytes}
    runner = _runner(target, threads, delegate, alt_decompression_memory_bytes, limits)
    contents, sources = {}, {}
    for key, model in models.items():
        contents[key], sources[key] = deployed.content_of(model)
        # A file that the runtime refuses is named by its path.
        signature = runner.describe(contents[key], sources[key])
        if y is not None and metric is None:
            _check_one_output(len(signature.outputs), sources[key])
        if x is not None and y is None:
            runner.run(contents[key], [a[:1] for a in deployed.input_arrays(x, signature.inputs)], sources[key])
    progress.step("timing")
    latencies = runner.latency(contents, runs=runs, warmup=warmup)
    progress.step("memory, accuracy")
    return {
        key: _measurement(key, content, latencies[key], runner, target, x, y, metric or accuracy)
        for key, content in contents.items()
    }


def _runner(name: str, threads: int, delegate: str | None, alternate_bytes: int, limits: dict[str, Any]) -> Target:
    options: dict[str, Any] = {"threads": threads, "delegate": delegate} if name == "litert" else {}
    if delegate is not None and name != "litert":
        raise ValueError(f"Expected target='litert' for delegate={delegate!r}. Received: target={name!r}")
    if name == "tflm":
        options["alt_decompression_memory_bytes"] = alternate_bytes
    elif alternate_bytes:
        raise ValueError(
            f"Expected alt_decompression_memory_bytes=0 for target {name!r}: only TFLite-Micro decodes weights. "
            f"Received: alt_decompression_memory_bytes={alternate_bytes}"
        )
    runner = target(name, **options, **limits)
    reason = runner.available()
    if reason is not None:
        raise RuntimeError(f"Target {name!r} cannot be measured here: {reason}")
    return runner


def _measurement(
    label: str, content: bytes, latency: Latency, runner: Target, name: str, x: Any, y: Any, metric: Metric
) -> Measurement:
    stats = inspect_tflite(content)
    return Measurement(
        label=label,
        target=name,
        raw_bytes=stats.raw_bytes,
        gzip_bytes=stats.gzip_bytes,
        weight_payload_bytes=stats.weight_payload_bytes,
        sparsity=stats.sparsity,
        distinct_values={tensor.name: tensor.distinct_values for tensor in stats.weights},
        latency=latency,
        memory=runner.memory(content, label),
        accuracy=None if y is None else metric(deployed.run(runner, content, x, label), y),
    )


def _check_one_output(count: int, label: str) -> None:
    if count > 1:
        raise ValueError(
            "Expected a `metric`, `metric=lambda outputs, y: ...`, for a model with several outputs. "
            f"Received: {label} with {count} outputs, and none"
        )


def accuracy(outputs: list[NDArray[Any]], y: Any) -> float:
    """Share of samples classified rightly by the only output.

    Args:
        outputs: Real-valued outputs: one, of shape `(samples, classes)`, or `(samples, 1)` thresholded at 0.5.
        y: Class numbers `(samples,)` or `(samples, 1)`, or one-hot rows.

    Raises:
        ValueError: If the shapes do not fit.
    """
    if not outputs:
        raise ValueError("Expected a model with an output. Received: none")
    _check_one_output(len(outputs), "a model")
    scores, labels = outputs[0], np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] > 1:
        labels = labels.argmax(-1)
    labels = labels.reshape(-1)
    if scores.ndim != 2 or not scores.shape[1] or len(scores) != len(labels):
        raise ValueError(
            "Expected outputs of shape (samples, classes) and as many labels, or a `metric`. "
            f"Received: outputs {scores.shape}, labels {np.asarray(y).shape}"
        )
    predicted = scores.argmax(-1) if scores.shape[1] > 1 else (scores[:, 0] > 0.5).astype(int)
    return float((predicted == labels).mean())
