"""Where a model runs: what every runtime offers, and how a runtime is found by name."""

import functools
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from keras_compress.core.registry import entries
from keras_compress.core.suggest import did_you_mean

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a deployed model.

    Attributes:
        name: the tensor's name in the file.
        signature_name: its name in the `serving_default` signature, "" where the file has none.
        shape: as in the file, the leading batch of 1 included.
        dtype: NumPy name, such as "int8".
        scales, zero_points, quantized_dimension: empty (and 0) for tensors that are not quantized.
    """

    name: str
    signature_name: str
    shape: tuple[int, ...]
    dtype: str
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    quantized_dimension: int

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: without the leading 1, if there is one."""
        return self.shape[1:] if self.shape[:1] == (1,) else self.shape


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a deployed model, in the file's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Latency:
    """Time of one invocation, with what is needed to read the number.

    Attributes:
        median_ms, p10_ms, p90_ms: over `runs` timed invocations, in milliseconds.
        delegate: "XNNPACK", "none (built-in kernels)", "TFLM reference kernels, host", ...
        architecture: of the machine that ran it, such as "x86_64".
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int
    threads: int
    delegate: str
    cpu: str
    architecture: str


class Target(Protocol):
    """A runtime for .tflite files. Every method may raise RuntimeCrash, RuntimeTimeout or ValueError."""

    name: str

    def available(self) -> str | None:
        """None where the runtime can be used, else the reason why not."""

    def describe(self, content: bytes, label: str = "") -> Signature:
        """The model's inputs and outputs."""

    def run(self, content: bytes, inputs: Sequence[Array], label: str = "") -> list[Array]:
        """Outputs for all samples; axis 0 counts samples, each is one invocation."""

    def tensors(
        self, content: bytes, inputs: Sequence[Array], names: Sequence[str], label: str = ""
    ) -> dict[str, Array]:
        """Values of the named tensors, intermediate ones too; axis 0 counts samples."""

    def latency(self, contents: Mapping[str, bytes], runs: int = 50, warmup: int = 10) -> dict[str, Latency]:
        """Time of one invocation of each model, the models taking turns."""

    def memory(self, content: bytes, label: str = "") -> dict[str, int]:
        """What the model needs at run time, in bytes."""


_OTHER_NAMES = {"tflite": "litert", "tensorflow_lite": "litert", "tflite_micro": "tflm", "micro": "tflm"}


def target_names() -> tuple[str, ...]:
    """Names that `target` takes: what is registered as `"target"`."""
    return tuple(sorted(entries("target")))


def target(name: str, **options: Any) -> Target:
    """The runtime called `name`.

    Args:
        name: "litert" (options `kernels`, `threads`) or "tflm".
        **options: passed on to the runtime's class.

    Raises:
        ValueError: if there is none of that name.

    >>> target("litert", kernels="reference").name
    'litert'
    """
    targets, names = entries("target"), target_names()
    if name not in targets:
        meant = did_you_mean(name, names, _OTHER_NAMES)
        raise ValueError(
            f"Expected a target out of {', '.join(names)} (kc.estimate has others). Received: target={name!r}{meant}"
        )
    made: Target = targets[name](**options)
    return made


@functools.cache
def cpu_name() -> str:
    """The processor's marketing name, as far as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            found = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", file.read(), re.MULTILINE)
        if found:
            return found.group(1).strip()
    except OSError:
        pass
    if platform.system() == "Darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass
    return platform.processor() or platform.machine()


# What `/proc/cpuinfo` calls instructions that multiply bytes and add the products, on x86 and on Arm.
_BYTE_PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}


@functools.cache
def multiplies_bytes() -> bool | None:
    """Whether the processor has instructions that multiply bytes and add the products; `None` where no one tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", file.read(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else bool(_BYTE_PRODUCTS & set(found.group(1).split()))


def machine_name() -> str:
    """The processor architecture, such as "x86_64" or "arm64"."""
    return platform.machine()
