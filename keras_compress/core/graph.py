"""Walk and rebuild Keras graphs. The only file that reads the nodes of a Functional model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import tree

Operation = Any
Node = Any
KerasTensor = Any


@dataclass(frozen=True)
class Call:
    """One call of an operation in a graph, while the graph is rebuilt.

    Attributes:
        operation: The layer or Keras operation.
        path: Its name, with the names of the models around it: `"encoder/conv1"`.
        args: Positional arguments, already tensors of the new graph.
        kwargs: Keyword arguments, likewise.
        node: The node of the old graph.
        depth: 0 in the outermost model.
        index: How many times this operation was called before, in the whole walk.
    """

    operation: Operation
    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    node: Node
    depth: int
    index: int = 0

    def run(self, operation: Operation | None = None) -> Any:
        """Call the operation, or another in its place, on the new tensors."""
        return (operation or self.operation)(*self.args, **self.kwargs)


Visitor = Callable[[Call], Any]


def functional(model: keras.Model) -> keras.Model:
    """The Functional graph of a Functional or Sequential model.

    Raises:
        ValueError: For an unbuilt Sequential, or a model without a graph (subclassed).
    """
    if isinstance(model, keras.Sequential):
        if getattr(model, "_functional", None) is None:
            raise ValueError(
                "Expected a built model: give the Sequential an `Input`, or call it on data. "
                f"Received: {model.name!r}, which is not built."
            )
        return model._functional
    if not is_graph(model):
        raise ValueError(
            "Expected a Functional or Sequential model. "
            f"Received: {type(model).__name__} {model.name!r}, a subclassed model: rebuild it with "
            "`keras.Model(inputs, outputs)` from the layers it is made of."
        )
    return model


def output_names(model: keras.Model) -> list[str]:
    """The user's names of a model's outputs: of the layers that make them, points behind those looked through.

    A model that was rebuilt remembers the names of the one it was made from.
    """
    graph = functional(model)
    computed = [tensor._keras_history.operation for tensor in graph.outputs]
    if graph.output_names != [op.name for op in computed]:
        return list(graph.output_names)
    return [getattr(op, "stands_for", None) or op.name for op in computed]


def is_graph(layer: Any) -> bool:
    """Whether a layer is a model that holds a graph of its own."""
    return isinstance(layer, (keras.Sequential, keras.src.models.functional.Functional))


def nodes(model: keras.Model) -> list[Node]:
    """The calls of a graph in the order in which they run, without the inputs."""
    by_depth = functional(model)._nodes_by_depth
    return [n for depth in sorted(by_depth, reverse=True) for n in by_depth[depth] if n.operation and not n.is_input]


def consumers(model: keras.Model) -> dict[int, list[Node]]:
    """`id(tensor)` -> the nodes that read it."""
    found: dict[int, list[Node]] = {}
    for node in nodes(model):
        for tensor in node.input_tensors:
            found.setdefault(id(tensor), []).append(node)
    return found


def sole_consumer(node: Node, model: keras.Model, table: dict[int, list[Node]]) -> Node | None:
    """The one node that reads what `node` makes; `None` where it is read twice, or is an output of the model."""
    if len(node.outputs) != 1:
        return None
    tensor = node.outputs[0]
    if any(tensor is out for out in functional(model).outputs):
        return None
    readers = table.get(id(tensor), [])
    return readers[0] if len(readers) == 1 else None


@dataclass
class Rebuild:
    """One walk through a model that makes a new one.

    Args:
        visit: Called once for each call of an operation; returns the new tensors.
        flat: Put the contents of nested models in line. Otherwise they become nested models again.
        batch_size: Batch size of the new inputs.
        enter: Called for each input of the outermost model; returns the tensor to go on with.
    """

    visit: Visitor
    flat: bool = False
    batch_size: int | None = None
    enter: Callable[[KerasTensor], KerasTensor] | None = None
    _models: dict[int, keras.Model] = field(default_factory=dict)
    _counts: dict[int, int] = field(default_factory=dict)

    def model(self, model: keras.Model, prefix: str = "", depth: int = 0) -> keras.Model:
        """The rebuilt model, of the same kind and name, with inputs and outputs of the same structure and names."""
        graph = functional(model)
        inputs = tree.map_structure(self._input, graph._inputs_struct)
        flat_inputs = tree.flatten(inputs)
        if self.enter is not None and depth == 0:
            flat_inputs = [self.enter(tensor) for tensor in flat_inputs]
        outputs = self.run(model, flat_inputs, prefix, depth)
        if isinstance(model, keras.Sequential):
            return _sequential(inputs, outputs, model.name)
        made = keras.Model(inputs, outputs, name=model.name)
        # A point put behind an output must not change the name under which users compile and convert it.
        made.output_names = output_names(model)
        return made

    def _input(self, tensor: KerasTensor) -> KerasTensor:
        batch = tensor.shape[0] if self.batch_size is None else self.batch_size
        return keras.Input(batch_shape=(batch, *tensor.shape[1:]), dtype=tensor.dtype, name=tensor.name)

    def run(self, model: keras.Model, inputs: list[KerasTensor], prefix: str, depth: int) -> Any:
        """Run the graph of `model` on new tensors."""
        graph = functional(model)
        tensors = {id(old): new for old, new in zip(graph.inputs, inputs, strict=True)}
        for node in nodes(model):
            if any(id(t) not in tensors for t in node.input_tensors):
                continue
            args, kwargs = node.arguments.fill_in(tensors)
            results = self._call(node, args, kwargs, prefix, depth)
            for old, new in zip(node.outputs, tree.flatten(results), strict=True):
                tensors[id(old)] = new
        return tree.map_structure(lambda t: tensors[id(t)], graph._outputs_struct)

    def _call(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], prefix: str, depth: int) -> Any:
        operation = node.operation
        path = prefix + operation.name
        if not is_graph(operation):
            index = self._counts.get(id(operation), 0)
            self._counts[id(operation)] = index + 1
            return self.visit(Call(operation, path, tuple(args), kwargs, node, depth, index))
        if self.flat:
            return self.run(operation, tree.flatten(args), path + "/", depth + 1)
        if id(operation) not in self._models:
            self._models[id(operation)] = self.model(operation, path + "/", depth + 1)
        return self._models[id(operation)](*args, **kwargs)


def _sequential(inputs: KerasTensor, outputs: KerasTensor, name: str) -> keras.Model:
    """A Sequential of the layers between two tensors; a Functional model where they are not a plain chain of layers."""
    graph = keras.Model(inputs, outputs, name=name)
    layers = list(graph.operations)
    if not all(isinstance(op, keras.layers.Layer) for op in layers) or len(nodes(graph)) != len(layers) - 1:
        return graph
    return keras.Sequential(layers, name=name)


def rename_between(start: KerasTensor, end: KerasTensor, prefix: str) -> KerasTensor:
    """Give the operations that lead from `start` to `end` names of their own: Keras's automatic ones may be taken."""
    current = end
    while current is not start:
        operation, node_index, _ = current._keras_history
        operation.name = f"{prefix}_{operation.name}"
        current = operation._inbound_nodes[node_index].input_tensors[0]
    return end


def walk(model: keras.layers.Layer, prefix: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """`(path, layer)` for every layer inside a model, nested models opened, each layer once."""
    seen: set[int] = set()

    def visit(layer: keras.layers.Layer, path: str) -> Iterator[tuple[str, keras.layers.Layer]]:
        for inner in layer.layers:
            if id(inner) in seen:
                continue
            seen.add(id(inner))
            if is_graph(inner):
                yield from visit(inner, path + inner.name + "/")
            else:
                yield path + inner.name, inner

    yield from visit(model, prefix)
