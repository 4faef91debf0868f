"""The intermediate graph: tensors by name, operators in the order in which they run."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.tflite.grids import ConstantGrid, Grid

Values = NDArray[Any] | ConstantGrid
# As many values of a constant are printed.
_FEW = 8


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor and what is known of it.

    Attributes:
        name: Its name in the graph, which no other tensor has.
        shape: Static, the batch first.
        dtype: Type of the real values: `"float32"`, `"int32"`, ...
        grid: Where the device holds integers.
        values: A constant's values, or its integers with their scales; None for what is computed or fed.
        path: Keras layer that it comes from.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    grid: Grid | None = None
    values: Values | None = None
    path: str = ""

    @property
    def is_constant(self) -> bool:
        """Whether the values are known."""
        return self.values is not None

    def array(self) -> NDArray[Any]:
        """A constant's real values.

        Raises:
            ValueError: The tensor is computed.
        """
        if self.values is None:
            raise ValueError(f"Expected a constant. Received: computed tensor {self.name!r}")
        return self.values.floats() if isinstance(self.values, ConstantGrid) else self.values


@dataclass(frozen=True, eq=False)
class Node:
    """One operator.

    Attributes:
        operator: A key of `keras_compress.ir.operators.OPERATORS`, such as `"CONV_2D"`.
        inputs: Names of tensors; None for one that is left out.
        outputs: Names of tensors.
        attributes: The operator's settings, by name.
        path: Keras layer or operation that it comes from.
    """

    operator: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    path: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))

    def __str__(self) -> str:
        settings = ", ".join(f"{k}={_shown(v)}" for k, v in self.attributes.items())
        inputs = ", ".join("-" if name is None else name for name in self.inputs)
        return f"{', '.join(self.outputs)} = {self.operator}({inputs})" + (f" {{{settings}}}" if settings else "")


@dataclass(frozen=True)
class Point:
    """A place where the device holds integers, as verification knows it.

    Attributes:
        name: Name of the activation point.
        tensor: The tensor that holds it.
        lowest: Lowest integer that may occur, where it is above the lowest of the storage type.
    """

    name: str
    tensor: str
    lowest: int | None = None


@dataclass
class Graph:
    """A model as operators that TFLite has.

    Attributes:
        name: Name of the model.
        tensors: By name, in the order in which they were made.
        nodes: In an order in which they can run.
        inputs: `(name for the caller, tensor)` in Keras's order.
        outputs: Likewise.
        points: Activation points in the order of the Keras model.
    """

    name: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    inputs: list[tuple[str, str]] = field(default_factory=list)
    outputs: list[tuple[str, str]] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)

    def __str__(self) -> str:
        """Stable text: inputs, a line for each node with its constants, outputs, points."""
        lines = [f"graph {self.name}"]
        lines += [f"input {name}: {self._described(tensor)}" for name, tensor in self.inputs]
        shown: set[str] = set()
        for node in self.nodes:
            lines.append(str(node))
            for name in (*node.inputs, *node.outputs):
                if name is None or name in shown:
                    continue
                shown.add(name)
                if name in node.outputs or self.tensors[name].is_constant:
                    lines.append(f"  {self._described(name)}")
        lines += [f"output {name}: {tensor}" for name, tensor in self.outputs]
        lines += [
            f"point {p.name}: {p.tensor}" + ("" if p.lowest is None else f" from {p.lowest}") for p in self.points
        ]
        return "\n".join(lines) + "\n"

    def _described(self, name: str) -> str:
        tensor = self.tensors[name]
        text = f"{name}: {tensor.dtype}[{','.join(map(str, tensor.shape))}]"
        if tensor.grid is not None:
            text += f" int{tensor.grid.bits} scale {tensor.grid.scale:.6g} zero {tensor.grid.zero_point}"
        return text if tensor.values is None else f"{text} {_constant(tensor.values)}"

    def readers(self) -> dict[str, list[Node]]:
        """Tensor -> nodes that read it, each once."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(filter(None, node.inputs)):
                found.setdefault(name, []).append(node)
        return found


def _constant(values: Values) -> str:
    if isinstance(values, ConstantGrid):
        scales = f"scale {values.scale.item():.6g}" if values.scale.size == 1 else f"{values.scale.size} scales"
        stored = "" if values.storage_bits == 8 else f" stored as int{values.storage_bits}"
        return f"integers {_digest(values.values)}, {scales}{stored}"
    if values.size <= _FEW:
        return f"= {_listed(values.reshape(-1).tolist())}"
    return f"values {_digest(values)}"


def _digest(values: NDArray[Any]) -> str:
    return f"{zlib.crc32(np.ascontiguousarray(values).tobytes()):08x}"


def _listed(values: Iterable[Any]) -> str:
    return "[" + ", ".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in values) + "]"


def _shown(value: Any) -> str:
    return f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)
