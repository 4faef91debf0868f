"""Latency on an Android device that is plugged in: TensorFlow's `benchmark_model`, run by `adb`."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keras_compress.convert.artifact import Artifact
from keras_compress.core.shown import Shown
from keras_compress.runtime import deployed
from keras_compress.tflite.inspection import inspect_tflite

# Where a shell may write and run programs on any device.
FOLDER = "/data/local/tmp"
PROGRAM = f"{FOLDER}/benchmark_model"
WHERE = (
    "https://storage.googleapis.com/tensorflow-nightly-public/prod/tensorflow/release/lite/tools/nightly/latest/"
    "android_aarch64_benchmark_model"
)
_GRAPH = f"{FOLDER}/keras_compress.tflite"
_PROPERTIES = {"model": "ro.product.model", "soc": "ro.board.platform", "android": "ro.build.version.release"}
_LONGEST_SECONDS = 600
_NUMBER = r"([\d.]+(?:e[+-]?\d+)?)"


@dataclass(frozen=True, repr=False)
class OnDevice(Shown):
    """What `benchmark_model` showed of one file on a device.

    Attributes:
        label: Name of the file.
        device: Model, system on a chip and Android version.
        raw_bytes: Size of the file.
        mean_ms: Mean time of one invocation, of `runs`.
        std_ms: Their standard deviation.
        min_ms: The shortest.
        max_ms: The longest.
        runs: Timed invocations.
        init_ms: Time to load the file.
        memory_bytes: Growth of the tool's memory while it ran, approximate; `None` where it is not told.
        threads: Threads.
        delegate: `"XNNPACK"`, or `"none (built-in kernels)"`.
    """

    label: str
    device: str
    raw_bytes: int
    mean_ms: float
    std_ms: float
    min_ms: float
    max_ms: float
    runs: int
    init_ms: float
    memory_bytes: int | None
    threads: int
    delegate: str

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines."""
        spread = f"std {self.std_ms:.4g}, {self.min_ms:.4g} to {self.max_ms:.4g}, {self.runs} runs"
        where = f"{self.threads} thread{'s' if self.threads > 1 else ''}, {self.delegate}"
        memory = "" if self.memory_bytes is None else f"about {self.memory_bytes:,} B"
        return f"{self.label} on {self.device}", [
            ("file", f"{self.raw_bytes:,} B"),
            ("latency", f"{self.mean_ms:.4g} ms mean ({spread}; {where})"),
            ("loading", f"{self.init_ms:.4g} ms"),
            ("memory", memory),
        ]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def adb_lines(file: str, *, threads: int = 1, runs: int = 50, warmup: int = 10, xnnpack: bool = True) -> list[str]:
    """The commands that measure a file on a device, as a shell takes them; `benchmark_model` is to be there already.

    >>> adb_lines("m.tflite")[0]
    'adb push m.tflite /data/local/tmp/keras_compress.tflite'
    """
    run = _benchmark(threads, runs, warmup, xnnpack)
    return [shlex.join(["adb", *each]) for each in (("push", file, _GRAPH), ("shell", *run), ("shell", "rm", _GRAPH))]


def _benchmark(threads: int, runs: int, warmup: int, xnnpack: bool) -> list[str]:
    flags = {"graph": _GRAPH, "num_threads": threads, "num_runs": runs, "warmup_runs": warmup}
    return [PROGRAM, *(f"--{name}={value}" for name, value in flags.items()), f"--use_xnnpack={str(xnnpack).lower()}"]


def measure_on_device(
    model: Artifact | bytes | str | os.PathLike[str],
    *,
    benchmark_model: str | os.PathLike[str] | None = None,
    serial: str | None = None,
    threads: int = 1,
    runs: int = 50,
    warmup: int = 10,
    xnnpack: bool = True,
) -> OnDevice:
    """Run a converted model on an Android device by `adb` and TensorFlow's `benchmark_model`.

    Args:
        model: What `convert` returned, the bytes of a `.tflite` file, or its path.
        benchmark_model: The program for the device's processor, to be copied there; by default the one that is there.
        serial: Which device, where there are several.
        threads: Threads on the device.
        runs: Timed invocations; the tool runs for a second at least.
        warmup: Invocations before that.
        xnnpack: Whether LiteRT's XNNPACK computes, as in an app.

    Raises:
        RuntimeError: Without `adb`, a device or `benchmark_model`, or if the tool fails; the message says what to do.
        ValueError: For a file that is no `.tflite` file.
    """
    content, label = deployed.content_of(model)
    stats = inspect_tflite(content)
    device = _Device(_adb(), serial)
    if benchmark_model is not None:
        device.run("push", os.fspath(benchmark_model), PROGRAM)
        device.run("shell", "chmod", "755", PROGRAM)
    elif "benchmark_model" not in device.run("shell", f"ls {PROGRAM} 2>/dev/null || true"):
        raise RuntimeError(
            f"Expected {PROGRAM} on the device: give the program for its processor as `benchmark_model` "
            f"(--benchmark_model), for most phones {WHERE}. Received: none"
        )
    with tempfile.TemporaryDirectory(prefix="keras_compress-") as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(content)
        device.run("push", str(path), _GRAPH)
    try:
        said = device.run("shell", *_benchmark(threads, runs, warmup, xnnpack))
    finally:
        device.run("shell", "rm", "-f", _GRAPH)
    figures = _figures(said)
    delegate = "XNNPACK" if xnnpack else "none (built-in kernels)"
    return OnDevice(label, device.name(), stats.raw_bytes, threads=threads, delegate=delegate, **figures)


def _adb() -> str:
    found = shutil.which("adb")
    if found is None:
        raise RuntimeError(
            "Expected `adb` on the PATH, of Android's platform tools "
            "(https://developer.android.com/tools/releases/platform-tools). Received: none"
        )
    return found


class _Device:
    """One device by `adb`.

    Args:
        adb: The program.
        serial: Of the device; the only one by default.
    """

    def __init__(self, adb: str, serial: str | None) -> None:
        self._command = [adb]
        found = re.findall(r"^(\S+)\s+(device|offline|unauthorized)\b", self.run("devices"), re.MULTILINE)
        ready = [name for name, state in found if state == "device"]
        if not ready or (serial is not None and serial not in ready):
            told = ", ".join(f"{name} ({state})" for name, state in found) or "none"
            any_device = "an Android device that has USB debugging on and trusts this computer"
            wanted = f"device {serial!r}" if serial else any_device
            raise RuntimeError(f"Expected {wanted}. Received: {told}")
        if serial is None and len(ready) > 1:
            raise RuntimeError(f"Expected `serial` (--serial) for one of several devices. Received: {', '.join(ready)}")
        self._command += ["-s", serial or ready[0]]

    def run(self, *arguments: str) -> str:
        """What a command of `adb` says on both of its outputs."""
        said_in_short = shlex.join(arguments[:2])
        try:
            done = subprocess.run(
                [*self._command, *arguments],
                capture_output=True, text=True, errors="replace", timeout=_LONGEST_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(
                f"Expected `adb {said_in_short}` to end within {_LONGEST_SECONDS:g} s. Received: no end"
            ) from error
        if done.returncode:
            said = " ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])
            raise RuntimeError(f"Expected `adb {said_in_short}` to work. Received: {said or 'no word'}")
        return done.stdout + done.stderr

    def name(self) -> str:
        """Model, system on a chip and Android version."""
        found = {key: self.run("shell", "getprop", name).strip() for key, name in _PROPERTIES.items()}
        return f"{found['model']} ({found['soc']}, Android {found['android']})"


def _figures(said: str) -> dict[str, Any]:
    """The tool's figures; those of the timed runs are in its last line of counts, in microseconds.

    Raises:
        RuntimeError: If they are not there.
    """
    counts = re.findall(
        rf"count=(\d+)(?:.*?\bmin={_NUMBER} max={_NUMBER} avg={_NUMBER} std={_NUMBER}| curr={_NUMBER})", said
    )
    loading = re.search(rf"Inference timings in us: Init: {_NUMBER}", said)
    if not counts or loading is None:
        last = " ".join(said.strip().splitlines()[-3:]) or "nothing"
        raise RuntimeError(f"Expected figures of benchmark_model. Received: {last}")
    count, low, high, mean, deviation, only = counts[-1]
    if only:
        # The form for one run, which tells its time alone.
        low, high, mean, deviation = only, only, only, "0"
    memory = re.search(rf"(?:Peak memory|Memory) footprint[^:]*\(MB\): init={_NUMBER} overall={_NUMBER}", said)
    return {
        "mean_ms": float(mean) / 1e3,
        "std_ms": float(deviation) / 1e3,
        "min_ms": float(low) / 1e3,
        "max_ms": float(high) / 1e3,
        "runs": int(count),
        "init_ms": float(loading[1]) / 1e3,
        # The tool's MB are of 1,048,576 bytes.
        "memory_bytes": None if memory is None else round(float(memory[2]) * 2**20),
    }
