"""What a child process needs from a runtime, and the failures it reports by kind."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from .frames import NUMBER_KINDS, Array, Header


class ModelError(ValueError):
    """The runtime refuses the model."""


class UnavailableError(RuntimeError):
    """The runtime cannot be imported here."""


class ArgumentError(ValueError):
    """The request does not fit the model; the message says how."""


class Engine(Protocol):
    """One loaded model. `getters` read its outputs, in order, after `invoke`."""

    getters: Sequence[Callable[[], Array]]

    def reset(self) -> None:
        """Forgets the state of variable tensors."""

    def signature(self) -> Header:
        """Lists of `inputs` and `outputs`, as `tensor_info` gives them."""

    def delegate(self) -> str:
        """The delegate that took at least one operator, or "none"."""

    def feed(self, sample: Sequence[Array]) -> None:
        """Sets every input; needed before each `invoke`, since runtimes reuse the inputs' memory."""

    def invoke(self) -> None:
        """Runs the model once."""

    def tensor_getters(self, names: Sequence[str]) -> list[Callable[[], Array]]:
        """Readers of intermediate tensors; the engine must have been made with `preserve=True`."""

    def memory(self) -> Header:
        """Figures that the runtime itself knows after a run, in bytes; empty where there are none."""


def tensor_info(name: str, details: Header, signature_name: str) -> Header:
    """One input or output as JSON, out of the details that both runtimes give."""
    quantization = details["quantization_parameters"]
    dtype = details["dtype"]
    return {
        "name": name,
        "signature_name": signature_name,
        "shape": [int(size) for size in details["shape"]],
        "dtype": np.dtype(dtype).name
        if np.dtype(dtype).kind in NUMBER_KINDS
        else getattr(dtype, "__name__", str(dtype)),
        "scales": [float(scale) for scale in quantization["scales"]],
        "zero_points": [int(zero_point) for zero_point in quantization["zero_points"]],
        "quantized_dimension": int(quantization["quantized_dimension"]),
    }


def known_names(names: Sequence[str], indices: dict[str, int]) -> Sequence[str]:
    """The names, if all are keys of `indices`. Raises ArgumentError."""
    unknown = [name for name in names if name not in indices]
    if unknown:
        raise ArgumentError(f"Expected names of tensors in the model. Received: {unknown[0]!r}")
    return names
