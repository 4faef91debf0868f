"""What all runtimes in child processes share: checks before, one request, and its answer put into shape."""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from keras_compress.runtime.child import RequestError, ask
from keras_compress.runtime.frames import Header
from keras_compress.runtime.target import Array, Latency, Signature, TensorSpec, cpu_name, machine_name
from keras_compress.tflite.flatbuffer import read_model
from keras_compress.tflite.inspection import check_structure

# A .tflite file starts with the offset of its root table and the identifier.
_HEADER_BYTES = 8
# Samples are sent in pieces of this size, so that a large data set is not held three times.
_PIECE_BYTES = 1 << 26
# What is not asked for by the sample must be done in this many times the limit on silence: a file that makes each
# of 60 invocations last just under the limit would keep its caller waiting for hours.
_TOTAL_LIMITS = 10


class ProcessTarget:
    """A runtime that is driven through worker.py; subclasses name it and its options.

    Args:
        time_limit_s: the longest time without progress, in seconds: loading a model, one invocation. Requests other
            than running given samples end after ten times that, whatever their progress.
        memory_limit_bytes: address space of the child; None allows 4 GiB, or 16 times the model and
            the samples if that is more. A limit holds where the system has RLIMIT_AS.
    """

    name = ""
    title = ""
    package = ""

    def __init__(self, options: Header, time_limit_s: float, memory_limit_bytes: int | None) -> None:
        if not time_limit_s > 0:
            raise ValueError(f"Expected a time limit above 0 seconds. Received: time_limit_s={time_limit_s}")
        self._options = options
        self.time_limit_s = float(time_limit_s)
        self.memory_limit_bytes = memory_limit_bytes

    def available(self) -> str | None:
        """None where the runtime can be used, else the reason why not."""
        if importlib.util.find_spec(self.package) is None:
            return f"{self.title} is not available on this platform"
        return None

    def describe(self, content: bytes, label: str = "") -> Signature:
        """The model's inputs and outputs, in the file's order.

        Raises:
            ValueError: if the runtime refuses the file.
            RuntimeCrash, RuntimeTimeout: if it dies or hangs on it.
        """
        answer, _ = self._request({"op": "describe"}, [content], [], label)
        return Signature(*(tuple(_tensor_spec(entry) for entry in answer[k]) for k in ("inputs", "outputs")))

    def run(self, content: bytes, inputs: Sequence[Array], label: str = "") -> list[Array]:
        """Runs the model once per sample.

        Args:
            content: a .tflite file.
            inputs: one array per input, in the file's order, of exactly its dtype. Axis 0 counts samples and
                stands in the place of the tensor's leading 1: a (1, 8, 8, 1) input takes (samples, 8, 8, 1).
            label: how error messages call the model.

        Returns:
            One array per output, (samples, ...), in the output's own dtype.

        Raises:
            ValueError: if the runtime refuses the file, or the inputs do not fit it.
            RuntimeCrash, RuntimeTimeout: if the runtime dies or hangs.
        """
        return self._samples({"op": "run"}, content, inputs, label)

    def tensors(
        self, content: bytes, inputs: Sequence[Array], names: Sequence[str], label: str = ""
    ) -> dict[str, Array]:
        """Values of the tensors called `names`, intermediate ones too, each (samples, ...); see `run`."""
        results = self._samples({"op": "run", "names": list(names)}, content, inputs, label)
        return dict(zip(names, results, strict=True))

    def latency(self, contents: Mapping[str, bytes], runs: int = 50, warmup: int = 10) -> dict[str, Latency]:
        """Times single invocations, the models taking turns so that a noisy moment hits them all.

        Args:
            contents: label -> .tflite file; all are loaded at once.
            runs, warmup: timed and untimed invocations of each model.

        Returns:
            label -> Latency.
        """
        if runs < 1 or warmup < 0 or not contents:
            raise ValueError(
                "Expected at least one model, runs >= 1 and warmup >= 0. "
                f"Received: {len(contents)} models, runs={runs}, warmup={warmup}"
            )
        times, delegates = self._time_runs(contents, runs, warmup)
        return {
            label: self._latency_of(spent, delegate)
            for label, spent, delegate in zip(contents, (times[..., 1] - times[..., 0]) / 1e6, delegates, strict=True)
        }

    def memory(self, content: bytes, label: str = "") -> dict[str, int]:
        """What loading and one run of the model take in a process of its own, in bytes."""
        answer, _ = self._request({"op": "memory"}, [content], [], label, fresh=True)
        return {str(key): int(value) for key, value in answer["memory"].items()}

    def _time_runs(self, contents: Mapping[str, bytes], runs: int, warmup: int) -> tuple[Array, list[str]]:
        """Start and end of each run in ns, (models, runs, 2), and the delegate of each model."""
        for label, content in contents.items():
            self.describe(content, label)
        header = {"op": "latency", "runs": runs, "warmup": warmup}
        answer, results = self._request(header, list(contents.values()), [], ", ".join(contents))
        return results[0], [self._delegate(name) for name in answer["delegates"]]

    def _latency_of(self, spent_ms: Array, delegate: str) -> Latency:
        p10, median, p90 = (float(value) for value in np.percentile(spent_ms, (10, 50, 90)))
        threads = int(self._options.get("threads", 1))
        return Latency(median, p10, p90, len(spent_ms), threads, delegate, cpu_name(), machine_name())

    def _delegate(self, name: str) -> str:
        raise NotImplementedError

    def _samples(self, header: Header, content: bytes, inputs: Sequence[Array], label: str) -> list[Array]:
        signature = self.describe(content, label)
        arrays = [np.asarray(array) for array in inputs]
        _check_inputs(arrays, signature.inputs, _named(content, label))
        per_sample = sum(array.nbytes // len(array) for array in arrays) or 1
        size = max(1, _PIECE_BYTES // per_sample)
        pieces = []
        for start in range(0, len(arrays[0]), size):
            batch = [
                array[start : start + size].reshape(-1, *spec.shape)
                for array, spec in zip(arrays, signature.inputs, strict=True)
            ]
            pieces.append(self._request(header, [content], batch, label)[1])
        return [
            _without_batch(np.concatenate(parts) if len(parts) > 1 else parts[0]) for parts in zip(*pieces, strict=True)
        ]

    def _request(
        self, header: Header, contents: list[bytes], arrays: list[Array], label: str, fresh: bool = False
    ) -> tuple[Header, list[Array]]:
        if len(contents) == 1:
            label = _named(contents[0], label)
        self._check(contents, label)
        size = sum(map(len, contents)) + sum(array.nbytes for array in arrays)
        limits: dict[str, Any] = {
            "seconds": self.time_limit_s,
            "total_seconds": None if arrays else _TOTAL_LIMITS * self.time_limit_s,
            "memory_bytes": self.memory_limit_bytes or max(1 << 32, 16 * size),
            "label": label,
        }
        try:
            return ask(self.name, self._options, header, contents, arrays, fresh=fresh, **limits)
        except RequestError as error:
            self._refuse(error, label, contents)

    def _check(self, contents: Sequence[bytes], label: str) -> None:
        """Before a request: whether there is a runtime, and files that it could read."""
        reason = self.available()
        if reason:
            raise RuntimeError(reason)
        for content in contents:
            check_header(content, label)

    def _refuse(self, error: RequestError, label: str, contents: Sequence[bytes]) -> NoReturn:
        if error.kind == "unavailable":
            raise RuntimeError(f"{self.title} cannot be loaded: {error}") from None
        if error.kind == "argument":
            raise ValueError(f"{label}: {error}") from None
        for content in contents:
            _check_whole(content, label)
        raise ValueError(f"Expected a file that {self.title} runs. Received: {label}: {error}") from None


def check_header(content: bytes, label: str = "") -> None:
    """Raises ValueError for what cannot be a .tflite file, before any runtime sees it."""
    label = _named(content, label)
    if len(content) < _HEADER_BYTES:
        raise ValueError(f"Expected a valid .tflite file. Received: {label}: only {len(content)} bytes")
    if content[4:8] != b"TFL3":
        raise ValueError(f"Expected a valid .tflite file. Received: {label}: no 'TFL3' at byte 4")
    if int.from_bytes(content[:4], "little") + 4 > len(content):
        raise ValueError(f"Expected a valid .tflite file. Received: {label}: it is cut short")


def _check_whole(content: bytes, label: str) -> None:
    """Raises ValueError for a damaged file, which says more than what a runtime stumbles over in it."""
    try:
        check_structure(content)
        read_model(content)
    except ValueError as error:
        raise ValueError(f"Expected a valid .tflite file. Received: {label}: {error}") from None


def _named(content: bytes, label: str) -> str:
    return label or f"a model of {len(content):,} bytes"


def _tensor_spec(entry: Header) -> TensorSpec:
    tuples = {key: tuple(entry[key]) for key in ("shape", "scales", "zero_points")}
    return TensorSpec(**{**entry, **tuples})


def _check_inputs(arrays: Sequence[Array], specs: Sequence[TensorSpec], label: str) -> None:
    if not specs or len(arrays) != len(specs):
        raise ValueError(f"Expected {len(specs)} input arrays for {label}. Received: {len(arrays)}")
    for position, (array, spec) in enumerate(zip(arrays, specs, strict=True)):
        wanted = ", ".join(map(str, ("samples", *spec.sample_shape)))
        if array.dtype.name != spec.dtype or array.shape[1:] != spec.sample_shape or not array.ndim:
            raise ValueError(
                f"Expected input {position} ({spec.signature_name or spec.name}) of {label} as {spec.dtype} "
                f"of shape ({wanted}). Received: {array.dtype.name} of shape {array.shape}"
            )
    counts = {len(array) for array in arrays}
    if len(counts) > 1 or 0 in counts:
        raise ValueError(
            f"Expected as many samples in each input of {label}, at least 1. "
            f"Received: {[len(array) for array in arrays]}"
        )


def _without_batch(stacked: Array) -> Array:
    """(samples, 1, ...) to (samples, ...): the model's own batch of 1 is the sample."""
    return stacked.reshape(stacked.shape[:1] + stacked.shape[2:]) if stacked.shape[1:2] == (1,) else stacked
