"""Adds nodes to a graph; shapes follow from the operators."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.ir.graph import Graph, Node, Point, Tensor
from keras_compress.ir.operators import ISLAND, OPERATORS
from keras_compress.tflite.grids import ConstantGrid, Grid

# An input of a node: a tensor of the graph, a constant, or nothing.
Operand = Tensor | NDArray[Any] | ConstantGrid | None
# Constants of as many values are looked for among those that are there.
_FEW = 1024


class Builder:
    """Builds a graph, node by node.

    Attributes:
        graph: What has been built.
        path: Keras layer or operation that the next nodes come from.
        label: Names the tensors that they make, `label/operator`.
    """

    def __init__(self, name: str) -> None:
        self.graph = Graph(name)
        self.path = ""
        self.label = ""
        self._shared: dict[tuple[str, tuple[int, ...], bytes], Tensor] = {}

    def input(self, name: str, tensor_name: str, shape: Sequence[int], dtype: str) -> Tensor:
        """A tensor that the caller feeds under `name`."""
        made = self._tensor(tensor_name, tuple(shape), dtype)
        self.graph.inputs.append((name, made.name))
        return made

    def output(self, name: str, tensor: Tensor) -> None:
        """Give a tensor to the caller under `name`."""
        self.graph.outputs.append((name, tensor.name))

    def constant(self, values: NDArray[Any] | ConstantGrid, name: str = "") -> Tensor:
        """A tensor with these values."""
        if isinstance(values, ConstantGrid):
            shape, dtype = values.values.shape, "float32"
        else:
            shape, dtype = values.shape, values.dtype.name
        made = self._tensor(name or self._named("constant"), shape, dtype)
        return self._put(replace(made, values=values))

    def add(self, operator: str, *inputs: Operand, dtype: str = "", **settings: Any) -> Tensor:
        """Add an operator with one output.

        Args:
            operator: A key of `OPERATORS`.
            inputs: Tensors of the graph, or constants, which get tensors named `label/operator/operandN`.
            dtype: Of the output; by default that of the first tensor that is float32, or else of the first.
            settings: Attributes; the others have their defaults.

        Raises:
            ValueError: The inputs do not fit the operator, by path.
        """
        return self.add_many(operator, *inputs, dtype=dtype, **settings)[0]

    def add_many(self, operator: str, *inputs: Operand, dtype: str = "", **settings: Any) -> list[Tensor]:
        """The same with as many outputs as the operator has."""
        label = self._named(operator.lower())
        read = [self._operand(given, f"{label}/operand{number}") for number, given in enumerate(inputs)]
        try:
            attributes = OPERATORS[operator].complete(settings)
            made = OPERATORS[operator].shapes_of(read, attributes)
        except ValueError as error:
            raise ValueError(f"Expected operands that fit {operator} at {self.path!r}. Received: {error}") from error
        types = [t.dtype for t in read if t is not None]
        dtype = dtype or ("float32" if "float32" in types else types[0])
        return self._node(operator, read, [self._tensor(label, shape, dtype) for shape in made], attributes)

    def island(
        self, content: bytes, inputs: Sequence[Tensor], outputs: Sequence[tuple[tuple[int, ...], str]]
    ) -> list[Tensor]:
        """What a float flatbuffer computes, with outputs of these shapes and types."""
        made = [self._tensor(self._named("island"), shape, dtype) for shape, dtype in outputs]
        return self._node(ISLAND, list(inputs), made, {"content": content})

    def put_on_grid(self, tensor: Tensor, grid: Grid) -> Tensor:
        """Say that the device holds integers of this grid there."""
        return self._put(replace(self.graph.tensors[tensor.name], grid=grid))

    def point(self, name: str, tensor: Tensor, lowest: int | None = None) -> None:
        """Name an activation point."""
        self.graph.points.append(Point(name, tensor.name, lowest))

    def grid(self, tensor: Tensor) -> Grid | None:
        """The grid that a tensor has by now."""
        return self.graph.tensors[tensor.name].grid

    def _node(
        self, operator: str, inputs: Sequence[Tensor | None], outputs: list[Tensor], attributes: dict[str, Any]
    ) -> list[Tensor]:
        names = tuple(None if t is None else t.name for t in inputs)
        self.graph.nodes.append(Node(operator, names, tuple(t.name for t in outputs), attributes, self.path))
        return outputs

    def _named(self, kind: str) -> str:
        return f"{self.label}/{kind}" if self.label else kind

    def _operand(self, given: Operand, name: str) -> Tensor | None:
        if given is None or isinstance(given, Tensor):
            return given
        if isinstance(given, ConstantGrid) or given.size > _FEW:
            return self.constant(given, given.name if isinstance(given, ConstantGrid) else name)
        # Shapes, axes and the like repeat in each step of a sequence.
        key = given.dtype.name, given.shape, given.tobytes()
        if key not in self._shared:
            self._shared[key] = self.constant(given, name)
        return self._shared[key]

    def _tensor(self, name: str, shape: tuple[int, ...], dtype: str) -> Tensor:
        free = name
        for number in itertools.count(1):
            if free not in self.graph.tensors:
                break
            free = f"{name}_{number}"
        return self._put(Tensor(free, tuple(int(n) for n in shape), dtype, path=self.path))

    def _put(self, tensor: Tensor) -> Tensor:
        self.graph.tensors[tensor.name] = tensor
        return tensor


def integers(*values: int) -> NDArray[np.int32]:
    """An int32 operand: a shape, axes, sizes."""
    return np.array(values, np.int32)
