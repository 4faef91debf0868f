"""Measured latency, as a cost."""

from __future__ import annotations

from typing import Any

import keras

from keras_compress.convert.file_bytes import FileBytes
from keras_compress.core.budget import Cost
from keras_compress.core.registry import register
from keras_compress.runtime.target import Target, target_names
from keras_compress.runtime.target import target as target_of


@register("cost")
class Latency(Cost):
    """Median time of one invocation on this machine, as a runtime shows it.

    The candidate and the model given take turns in one process, so that a noisy moment hits both, and the fraction
    is the ratio of their medians in that run. It still scatters, by a few percent on a quiet machine: a candidate just
    over its goal may be taken for one within it. Measure the result again with `kc.measure(..., baseline=...)`.

    Args:
        target: `"litert"` or `"tflm"` (whose time is that of its reference kernels on this machine).
        mode: As for `kc.convert`.
        threads: Threads of LiteRT.
        representative_dataset: Data for `mode="int8"`, as for `kc.convert`.
        runs: Timed invocations of each model.
        warmup: Invocations before that.
        time_limit_s: Longest time without progress, in seconds.

    Raises:
        ValueError: For an unknown target, or threads of one that has none.
    """

    tolerance = 0.02
    noun = "latency"
    unit = "ms"
    figure_name = "latency_ms"
    predicted_by = "macs"

    def __init__(
        self,
        target: str = "litert",
        mode: str = "float32",
        threads: int = 1,
        *,
        representative_dataset: Any = None,
        runs: int = 50,
        warmup: int = 10,
        time_limit_s: float = 120.0,
    ) -> None:
        if target not in target_names():
            raise ValueError(f"Expected a target out of {', '.join(target_names())}. Received: target={target!r}")
        if target != "litert" and threads != 1:
            raise ValueError(f"Expected threads=1 for target {target!r}. Received: threads={threads}")
        options: dict[str, Any] = {"threads": threads} if target == "litert" else {}
        self.runner: Target = target_of(target, **options, time_limit_s=time_limit_s)
        self.file = FileBytes(mode, representative_dataset, target)
        self.runs, self.warmup = runs, warmup

    def whole(self, model: keras.Model) -> bytes:
        """The file of the model given."""
        reason = self.runner.available()
        if reason is not None:
            raise RuntimeError(f"Target {self.runner.name!r} cannot be measured here: {reason}")
        return self.file.content(model)

    def of(self, model: keras.Model) -> float:
        """Milliseconds."""
        return self.medians({"candidate": self.whole(model)})["candidate"]

    def fraction(self, model: keras.Model, whole: bytes) -> float:
        found = self.medians({"candidate": self.file.content(model), "given": whole})
        return found["candidate"] / found["given"]

    def medians(self, contents: dict[str, bytes]) -> dict[str, float]:
        """Milliseconds of each file, taking turns."""
        times = self.runner.latency(contents, runs=self.runs, warmup=self.warmup)
        return {label: each.median_ms for label, each in times.items()}
