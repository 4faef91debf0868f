"""Walks through a frozen Keras graph, and adds the nodes of each call."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import tree
from numpy.typing import NDArray

from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph as keras_graph
from keras_compress.ir.builder import Builder, Operand
from keras_compress.ir.graph import Graph, Tensor
from keras_compress.ir.layouts import layout_of
from keras_compress.ir.read.table import handler_of
from keras_compress.quantizers.activation import FixedGrid, QuantizeActivation
from keras_compress.quantizers.kinds import INFERENCE_IDENTITY, Kind, kind_of
from keras_compress.tflite.grids import ConstantGrid, Grid

# Operator and integers -> bits that a weight is stored in.
Storage = Callable[[str, ConstantGrid], int]
# Keras operation, shapes and types of its tensors -> float flatbuffer of it, shapes and types of its outputs.
Island = Callable[[Any, tuple[Any, ...], Mapping[str, Any]], tuple[bytes, list[tuple[tuple[int, ...], str]]]]


class UnknownOperationError(ValueError):
    """The table has no operators for a call; the message names it."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What stands for a Keras tensor.

    Attributes:
        tensor: The tensor of the graph.
        pointed: Whether it was read behind an activation point: another point there is a grid of its own.
    """

    tensor: Tensor
    pointed: bool = False


def read(
    model: keras.Model,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    batch: int = 1,
    storage: Storage | None = None,
    island: Island | None = None,
    target: str = "litert",
) -> Graph:
    """Read a frozen Functional or Sequential model.

    Args:
        model: What `keras_compress.convert.freeze` gave, or a graph of layers with points on `FixedGrid`s.
        inputs: The caller's names of the inputs, in the order of `model.inputs`.
        outputs: Likewise.
        batch: Size of a batch in the file.
        storage: How many bits a weight is stored in; 8 by default.
        island: Makes a float flatbuffer of a call that the table does not know.
        target: `"litert"` or `"tflm"`: which functions its kernels compute well.

    Raises:
        ValueError: Where a call is not known and there is no `island`, two ranges are wanted on one tensor, or the
            graph's shapes are not Keras's; the message names the layer.
    """
    reader = Reader(model, batch, storage, island, target)
    fed = []
    for name, tensor in zip(inputs, model.inputs, strict=True):
        shape = (tensor.shape[0] or batch, *tensor.shape[1:])
        fed.append(Seen(reader.build.input(name, tensor.name, shape, str(tensor.dtype))))
    found = keras_graph.Rebuild(reader.visit, flat=True).run(model, fed, "", 0)
    for name, seen in zip(outputs, tree.flatten(found), strict=True):
        reader.build.output(name, seen.tensor)
    return reader.build.graph


class Reader:
    """What a handler adds nodes with.

    Attributes:
        build: The graph under construction.
        batch: Size of a batch.
        target: Runtime that the file is for.
        follows: Grid of the one point behind the call at hand, if there is one.
    """

    def __init__(
        self,
        model: keras.Model,
        batch: int = 1,
        storage: Storage | None = None,
        island: Island | None = None,
        target: str = "litert",
    ) -> None:
        self.build = Builder(model.name)
        self.batch = batch
        self.target = target
        self.follows: FixedGrid | None = None
        self._model = model
        self._storage = storage
        self._island = island
        self._integers: Any = None
        self._weights: dict[tuple[int, str], Tensor] = {}
        self._carried: dict[str, Grid] = {}
        self._equal: dict[tuple[Any, ...], Tensor] = {}

    @functools.cached_property
    def _consumers(self) -> dict[int, list[Any]]:
        return keras_graph.consumers(self._model)

    def add(self, operator: str, *inputs: Operand, **settings: Any) -> Tensor:
        """Add an operator with one output; see `Builder.add`."""
        return self.build.add(operator, *inputs, **settings)

    def grid(self, tensor: Tensor) -> Grid | None:
        """The grid of a tensor, by now: its own, or that of a tensor whose values were only moved to get there."""
        return self.build.grid(tensor) or self._carried.get(tensor.name)

    def kernel(self, layer: keras.layers.Layer) -> Tensor:
        """A layer's kernel as a constant in TFLite's layout: integers where it is wrapped."""
        key = id(layer.kernel), type(layer).__name__
        if key not in self._weights:
            layout = layout_of(layer, layer.name)
            name = f"{self.build.path}/kernel"
            if self._integers is None:
                values = np.ascontiguousarray(layout.arrange(np.asarray(layer.kernel)), np.float32)
                self._weights[key] = self._shared(values, name, ())
            else:
                grid = layout.grid(name, self._integers)
                bits = 8 if self._storage is None else self._storage(layout.operator, grid)
                about = grid.quantized_dimension, bits, grid.scale.tobytes()
                self._weights[key] = self._shared(replace(grid, storage_bits=bits), grid.name, about)
        return self._weights[key]

    def _shared(self, constant: NDArray[np.float32] | ConstantGrid, name: str, about: tuple[Any, ...]) -> Tensor:
        """One constant for the same numbers, and the same about them: copies of a shared layer have them."""
        values = constant.values if isinstance(constant, ConstantGrid) else constant
        key = values.shape, hashlib.sha1(values.data).digest(), about
        if key not in self._equal:
            self._equal[key] = self.build.constant(constant, name)
        return self._equal[key]

    def visit(self, call: keras_graph.Call) -> Any:
        """Visitor of `keras_compress.graph.graph.Rebuild`."""
        operation, name = call.operation, call.path.replace("/", ".") + (f".call{call.index}" if call.index else "")
        self.build.path = name
        # A file is smaller with short names, and users know their layers' only.
        self.build.label = name if isinstance(operation, keras.layers.Layer) else ""
        if isinstance(operation, QuantizeActivation):
            shared = len(self._consumers.get(id(call.node.input_tensors[0]), [])) > 1
            return self._point(operation, call.args[0], shared)
        if type(operation).__name__ in INFERENCE_IDENTITY and len(call.args) == 1:
            return call.args[0]
        self._integers = None
        if isinstance(operation, Compressed):
            self._integers = operation.transforms["kernel"][-1].integer_weight(None)
            if self._integers is None:
                raise ValueError(f"Expected a frozen model. Received: {name!r} without integers")
            operation = operation.layer
        self.follows = self._following(call.node)
        args, kwargs = tree.map_structure(_tensor, (call.args, call.kwargs))
        kwargs = {k: v for k, v in kwargs.items() if v is not None and k != "training"}
        pointed = {seen.tensor.name for seen in tree.flatten((call.args, call.kwargs)) if getattr(seen, "pointed", 0)}
        results = self._handled(operation, args, kwargs)
        if kind_of(operation) is Kind.SAME and isinstance(args[0], Tensor):
            self._carry(args[0], tree.flatten(results))
        for made, expected in zip(tree.flatten(results), call.node.outputs, strict=True):
            _check_shape(name, made, expected)
            if made.dtype.startswith("float") and made.dtype != expected.dtype:
                raise UnknownOperationError(f"Expected {expected.dtype} at {name!r}. Received: {made.dtype}")
        return tree.map_structure(lambda t: Seen(t, t.name in pointed), results)

    def _carry(self, source: Tensor, moved: list[Tensor]) -> None:
        grid = self.grid(source)
        if grid is not None:
            self._carried.update({tensor.name: grid for tensor in moved})

    def _handled(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        handler = handler_of(operation)
        made = NotImplemented if handler is None else handler(self, operation, *args, **kwargs)
        if made is not NotImplemented:
            return made
        if self._island is None:
            raise UnknownOperationError(
                "Expected layers and operations that the table of the intermediate graph knows. Received: "
                f"{type(operation).__name__} at {self.build.path!r}"
            )
        content, outputs = self._island(operation, args, kwargs)
        inputs = [t for t in tree.flatten((args, kwargs)) if isinstance(t, Tensor)]
        tensors = self.build.island(content, inputs, outputs)
        return tensors[0] if len(tensors) == 1 else tensors

    def _following(self, node: Any) -> FixedGrid | None:
        """The grid that values are rounded to behind a call, and at most moved, joined or clamped before that.

        All of these give the same whether the values are on that grid already.
        """
        reader = keras_graph.sole_consumer(node, self._model, self._consumers)
        while reader is not None and kind_of(reader.operation) in (Kind.SAME, Kind.JOIN, Kind.CLAMP):
            reader = keras_graph.sole_consumer(reader, self._model, self._consumers)
        point = getattr(reader, "operation", None)
        return point.quantizer if isinstance(point, QuantizeActivation) else None

    def _point(self, layer: QuantizeActivation, seen: Seen, shared: bool) -> Seen:
        quantizer, name = layer.quantizer, self.build.path
        if not isinstance(quantizer, FixedGrid):
            raise ValueError(f"Expected a frozen model. Received: {name!r} with {type(quantizer).__name__}")
        grid = Grid(float(np.float32(quantizer.scale)), quantizer.zero_point, quantizer.bits)
        problem = grid.problem()
        if problem is not None:
            raise ValueError(f"{problem}, at {name!r}")
        lowest = quantizer.lowest if quantizer.lowest > -(2 ** (quantizer.bits - 1)) else None
        tensor, earlier = seen.tensor, self.build.grid(seen.tensor)
        if earlier is not None and earlier != grid:
            if not seen.pointed:
                owner = next(p.name for p in self.build.graph.points if p.tensor == tensor.name)
                raise ValueError(
                    f"Expected one range per tensor. Received: {owner!r} and {name!r} want {earlier} and {grid} on "
                    f"{tensor.name!r}"
                )
            tensor = self._requantized(tensor, grid)
        elif earlier is None and shared and self.grid(tensor) not in (None, grid):
            # What others read too stays on the grid that its values were moved on.
            tensor = self._requantized(tensor, grid)
        self.build.put_on_grid(tensor, grid)
        self.build.point(name, tensor, lowest)
        return Seen(tensor, pointed=True)

    def _requantized(self, tensor: Tensor, grid: Grid) -> Tensor:
        """The integers moved to another grid, once for all that want it there."""
        for node in self.build.graph.nodes:
            if node.operator == "QUANTIZE" and node.inputs == (tensor.name,):
                moved = self.build.graph.tensors[node.outputs[0]]
                if moved.grid == grid:
                    return moved
        return self.build.add("QUANTIZE", tensor)


def _tensor(seen: Any) -> Any:
    return seen.tensor if isinstance(seen, Seen) else seen


def _check_shape(name: str, made: Tensor, expected: Any) -> None:
    """Keras has worked out the same shape, but for the batch."""
    shape = expected.shape
    if len(shape) != len(made.shape) or any(n not in (None, m) for n, m in zip(shape, made.shape, strict=True)):
        raise ValueError(f"Expected the shape that Keras gives {name!r}, {shape}. Received: {made.shape}")
