"""Walk and rebuild Keras graphs. The only file that lists the nodes of a Functional model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from keras_compress.core import keras_private
from keras_compress.core.kinds_of_layers import is_graph as is_graph
from keras_compress.core.kinds_of_layers import is_user_written
from keras_compress.core.quiet import ignored_warnings
from keras_compress.core.slots import slots_of
from keras_compress.core.warn import warn
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import parts
from keras_compress.graph.named_outputs import NamedOutputs

Operation = Any
Node = Any
KerasTensor = Any
# What a user's model class may have of its own beside its graph.
OWN_METHODS = ("train_step", "test_step", "predict_step", "compute_loss", "call")
# Operations that give a list of one tensor, too.
_GIVING_LISTS = ("Split", "Unstack")
# Keras's warning of a dict whose keys are not the inputs' names, which the user has seen.
_ANY_KEYS = "When providing `inputs` as a dict"


@dataclass(frozen=True)
class Call:
    """One call of an operation in a graph, while the graph is rebuilt.

    Attributes:
        operation: The layer or Keras operation.
        path: Its name, with the names of the models around it: `"encoder/conv1"`.
        args: Positional arguments, already tensors of the new graph; the first one too where it was given by keyword.
        kwargs: The other keyword arguments, likewise.
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
        args = self.args
        if is_user_written(self.operation) and not any(t.sparse for t in self.node.input_tensors):
            args = tree.map_structure(_dense, args)
        return (operation or self.operation)(*args, **self.kwargs)

    def values(self, operation: Operation | None = None) -> Any:
        """`run` on values: what the operation computes with them in inference, sooner.

        Keras looks at arguments, masks and scopes for five times as long as a small layer computes.
        """
        operation = operation or self.operation
        if not isinstance(operation, keras.layers.Layer):
            return operation.call(*self.args, **self.kwargs)
        body = operation.layer if isinstance(operation, Compressed) else operation
        plain = map(keras_private.is_plain, (*self.node.input_tensors, *self.node.outputs))
        if self.kwargs or not all(map(_is_value, tree.flatten(self.args))) or not all(plain):
            return self.run(operation)
        if not computes_in_float32(body) or keras_private.sub_layers(body):
            return self.run(operation)
        return operation.call(*self.args) if body is operation else operation.values(*self.args)

    def again(self, operation: Operation | None = None) -> Any:
        """`run` of the operation itself, or of a copy of the same configuration, in a graph that is nobody else's.

        What it gives is known from the old graph where the shapes are the same: to infer it anew takes Keras ten times
        longer than to write the call down.
        """
        operation = operation or self.operation
        given = [t for t in tree.flatten((self.args, self.kwargs)) if isinstance(t, keras.KerasTensor)]
        if not getattr(operation, "built", True) or not _alike(given, self.node.input_tensors):
            return self.run(operation)
        if not all(map(keras_private.is_plain, (*given, *self.node.outputs))):
            return self.run(operation)
        made = keras_private.recorded(operation, self.args, self.kwargs, self.node.outputs)
        return made if len(made) > 1 or type(operation).__name__ in _GIVING_LISTS else made[0]


def written(layer: keras.layers.Layer, *args: Any) -> Any:
    """`layer(*args)` on symbolic tensors of a graph that is nobody else's, sooner.

    What Keras looks for in each call, such as masks and scopes, is not there; what the layer says of its outputs is.
    """
    given = [t for t in tree.flatten(args) if isinstance(t, keras.KerasTensor)]
    if not computes_in_float32(layer) or not all(map(_is_plain_float32, given)):
        return layer(*args)
    if not layer.built and not _is_merge(layer):
        return layer(*args)
    if not layer.built:
        layer.build([tensor.shape for tensor in args[0]])
    outputs = layer.compute_output_spec(*args)
    if not all(map(keras_private.is_plain, tree.flatten(outputs))):
        return layer(*args)
    return tree.pack_sequence_as(outputs, keras_private.recorded(layer, args, {}, tree.flatten(outputs)))


def computes_in_float32(layer: Operation) -> bool:
    """Whether Keras or this package wrote a layer's `call`, and hands it its arguments as they are if they are float32.

    One whose `call` the user wrote may count on more than its arguments.
    """
    if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.layers.Lambda):
        return False
    if layer.compute_dtype != "float32" or layer.quantization_mode:
        return False
    owner = next(cls for cls in type(layer).__mro__ if "call" in vars(cls))
    return owner.__module__.startswith(("keras.src.layers.", "keras_compress."))


def _is_merge(layer: keras.layers.Layer) -> bool:
    return type(layer) in (keras.layers.Add, keras.layers.Multiply, keras.layers.Subtract)


def _is_plain_float32(tensor: KerasTensor) -> bool:
    return bool(tensor.dtype == "float32" and keras_private.is_plain(tensor))


def _is_value(argument: Any) -> bool:
    return bool(tf.is_tensor(argument) and argument.dtype == tf.float32)


def _alike(tensors: Sequence[KerasTensor], others: Sequence[KerasTensor]) -> bool:
    """Whether symbolic tensors have the same shapes and dtypes."""
    return [(t.shape, t.dtype) for t in tensors] == [(t.shape, t.dtype) for t in others]


def _dense(tensor: Any) -> Any:
    # Keras takes `x * 2.0` for a sparse tensor, and would trace a user's `call` with one.
    sparse = isinstance(tensor, keras.KerasTensor) and tensor.sparse
    return keras.ops.cast(tensor, tensor.dtype) if sparse else tensor


Visitor = Callable[[Call], Any]


def functional(model: keras.Model) -> keras.Model:
    """The Functional graph of a Functional or Sequential model.

    Raises:
        ValueError: For an unbuilt Sequential, or a model without a graph (subclassed).
    """
    if isinstance(model, keras.Sequential):
        held = keras_private.graph_of_sequential(model)
        if held is None:
            raise ValueError(
                "Expected a built model: give the Sequential an `Input`, or call it on data. "
                f"Received: {model.name!r}, which is not built."
            )
        return held
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
    computed = [keras_private.maker(tensor) for tensor in graph.outputs]
    if graph.output_names != [op.name for op in computed]:
        return list(graph.output_names)
    return [getattr(op, "stands_for", None) or op.name for op in computed]


def nodes(model: keras.Model) -> list[Node]:
    """The calls of a graph in the order in which they run, without the inputs."""
    by_depth = keras_private.nodes_by_depth(functional(model))
    return [n for depth in sorted(by_depth, reverse=True) for n in by_depth[depth] if n.operation and not n.is_input]


def by_position(operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Arguments of a call with the first in the first position, though it was given by keyword: `layer(inputs=x)`."""
    if args or not kwargs:
        return args, kwargs
    first = next(iter(inspect.signature(operation.call).parameters.values()), None)
    if first is None or first.kind is not first.POSITIONAL_OR_KEYWORD or first.name not in kwargs:
        return args, kwargs
    return (kwargs[first.name],), {name: value for name, value in kwargs.items() if name != first.name}


def arguments_of(node: Node) -> tuple[Any, dict[str, Any]]:
    """`(args, kwargs)` of a call in the symbolic tensors of its graph, arranged as in a `Call`."""
    return by_position(node.operation, node.arguments.args, node.arguments.kwargs)


def inputs_of(node: Node) -> list[KerasTensor]:
    """The tensors that a call reads, those of its first argument first, though that was given by keyword."""
    if node.arguments.args:
        return list(node.input_tensors)
    return [each for each in tree.flatten(arguments_of(node)) if isinstance(each, keras.KerasTensor)]


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


def _last_readers(calls: list[Node], kept: list[KerasTensor]) -> dict[int, Node]:
    """`id(tensor)` -> the last call that reads it, for tensors that are not to be kept."""
    outputs = {id(tensor) for tensor in kept}
    return {id(t): node for node in calls for t in node.input_tensors if id(t) not in outputs}


@dataclass
class Rebuild:
    """One walk through a model that makes a new one.

    Args:
        visit: Called once for each call of an operation; returns the new tensors.
        flat: Put the contents of nested models in line. Otherwise they become nested models again.
        batch_size: Batch size of the new inputs.
        enter: Called for each input of the outermost model; returns the tensor to go on with.
        input_shape: Gives the shape of the new input for each input, of nested models too; the old one by default.
    """

    visit: Visitor
    flat: bool = False
    batch_size: int | None = None
    enter: Callable[[KerasTensor], KerasTensor] | None = None
    input_shape: Callable[[KerasTensor], tuple[int | None, ...]] | None = None
    _models: dict[int, keras.Model] = field(default_factory=dict)
    _counts: dict[int, int] = field(default_factory=dict)

    def model(self, model: keras.Model, prefix: str = "", depth: int = 0) -> keras.Model:
        """The rebuilt model, of the same kind and name, with inputs and outputs of the same structure and names."""
        graph = functional(model)
        inputs = tree.map_structure(self._input, keras_private.inputs_structure(graph))
        flat_inputs = tree.flatten(inputs)
        if self.enter is not None and depth == 0:
            flat_inputs = [self.enter(tensor) for tensor in flat_inputs]
        outputs = self.run(model, flat_inputs, prefix, depth)
        # What is put behind an output must not change the name under which users compile and convert it.
        names = output_names(model)
        if isinstance(model, keras.Sequential):
            made = _sequential(inputs, outputs, model)
            functional(made).output_names = names
            return made
        cls = _graph_class(model)
        with ignored_warnings(_ANY_KEYS):
            made = cls(inputs, outputs, name=model.name)
        pointed = any(hasattr(keras_private.maker(tensor), "stands_for") for tensor in made.outputs)
        if cls is keras.Model and depth == 0 and len(names) > 1 and pointed:
            with ignored_warnings(_ANY_KEYS):
                made = NamedOutputs(inputs, outputs, name=model.name)
        made.output_names = names
        return made

    def _input(self, tensor: KerasTensor) -> KerasTensor:
        shape = tensor.shape if self.input_shape is None else self.input_shape(tensor)
        batch = shape[0] if self.batch_size is None else self.batch_size
        return keras.Input(batch_shape=(batch, *shape[1:]), dtype=tensor.dtype, name=tensor.name)

    def run(self, model: keras.Model, inputs: list[KerasTensor], prefix: str, depth: int) -> Any:
        """Run the graph of `model` on new tensors."""
        graph = functional(model)
        tensors = {id(old): new for old, new in zip(graph.inputs, inputs, strict=True)}
        self.run_calls(nodes(model), tensors, graph.outputs, prefix, depth)
        return tree.map_structure(lambda t: tensors[id(t)], keras_private.outputs_structure(graph))

    def run_calls(
        self, calls: list[Node], tensors: dict[int, Any], kept: list[KerasTensor], prefix: str = "", depth: int = 0
    ) -> None:
        """Run some calls of a graph, those before them having been run.

        Args:
            calls: In order.
            tensors: `id` of a tensor of the old graph -> its value. What the calls make is entered, what none of them
                reads any more is taken out.
            kept: Tensors of the old graph that are not to be taken out.
            prefix: Path of the model around them.
            depth: See `Call`.
        """
        last = _last_readers(calls, kept)
        for node in calls:
            if any(id(t) not in tensors for t in node.input_tensors):
                continue
            args, kwargs = by_position(node.operation, *node.arguments.fill_in(tensors))
            results = self._call(node, args, kwargs, prefix, depth)
            for old, new in zip(node.outputs, tree.flatten(results), strict=True):
                tensors[id(old)] = new
            for old in node.input_tensors:
                # A large network's values do not fit into memory all at once. Symbolic tensors are known by identity.
                if last.get(id(old)) is node and not isinstance(tensors.get(id(old)), keras.KerasTensor):
                    tensors.pop(id(old), None)

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


def _graph_class(model: keras.Model) -> Any:
    """The user's own class where it is made from inputs and outputs, so that its `train_step` and the like stay."""
    own: Any = type(model)
    if own.__module__.split(".")[0] in ("keras", "keras_compress") or isinstance(model, keras.Sequential):
        return keras.Model
    if keras_private.takes_inputs_and_outputs(own):
        # Made by `Own(inputs, outputs)`.
        return own
    left = [name for name in OWN_METHODS if getattr(own, name) is not getattr(keras_private.Functional, name)]
    if left:
        warn(
            f"{own.__name__} {model.name!r} becomes a plain keras.Model, without its {', '.join(left)}: give it a "
            "constructor `(inputs, outputs, **kwargs)` to keep them."
        )
    return keras.Model


def _sequential(inputs: KerasTensor, outputs: KerasTensor, model: keras.Sequential) -> keras.Model:
    """A Sequential of the layers between two tensors; a Functional model where they are not a plain chain of layers."""
    graph = keras.Model(inputs, outputs, name=model.name)
    layers = list(graph.operations)
    calls = nodes(graph)
    chain = len(calls) == len(layers) - 1 and all(len(node.input_tensors) == 1 for node in calls)
    if not chain or not all(isinstance(op, keras.layers.Layer) for op in layers):
        return graph
    own: Any = type(model)
    plain = own.__init__ is not keras.Sequential.__init__
    made: keras.Model = (keras.Sequential if plain else own)(layers, name=model.name)
    return made


def rename_between(start: KerasTensor, end: KerasTensor, prefix: str) -> KerasTensor:
    """Give the operations that lead from `start` to `end` names of their own: Keras's automatic ones may be taken."""
    current = end
    while current is not start:
        operation = keras_private.maker(current)
        operation.name = f"{prefix}_{operation.name}"
        current = keras_private.call_node(current).input_tensors[0]
    return end


def body(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer that a user wrote inside a wrapper of one, such as `TimeDistributed`; any other layer itself."""
    held = getattr(layer, "layer", None) if isinstance(layer, keras.layers.Wrapper) else None
    return held if is_user_written(held) else layer


def children(layer: keras.layers.Layer) -> list[tuple[parts.Reference, keras.layers.Layer]]:
    """`(reference, layer)` of what is inside a graph, or inside a layer or model that a user wrote; none in others.

    In a graph a layer is known by its name. Sub-layers whose weights are slots of the layer around them are left out.
    """
    if is_graph(layer):
        return [((each.name,), each) for each in layer.layers]
    written = body(layer)
    if not is_user_written(written):
        return []
    taken = [slot.name.split(".") for slot in slots_of(written, getattr(layer, "slot_axes", None))]
    return [
        (reference, each)
        for reference, each in parts.sub_layers(written)
        if not any([str(key) for key in reference] == names[: len(reference)] for names in taken)
    ]


def walk(model: keras.layers.Layer, prefix: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """`(path, layer)` for every layer inside a model, each layer once.

    Nested models are opened, and so are layers and models that users wrote: a sub-layer's path is that of the
    attribute that holds it, `"encoder/blocks/0/conv"`. A layer that was opened comes before its sub-layers where it has
    weights of its own.
    """
    yield from _walk(model, prefix, set())


def _walk(layer: keras.layers.Layer, prefix: str, seen: set[int]) -> Iterator[tuple[str, keras.layers.Layer]]:
    for reference, inner in children(layer):
        if id(inner) in seen:
            continue
        seen.add(id(inner))
        path = prefix + parts.path_of(reference)
        if not is_graph(inner) and (not children(inner) or _has_own_weights(inner)):
            yield path, inner
        yield from _walk(inner, path + "/", seen)


def _has_own_weights(layer: keras.layers.Layer) -> bool:
    return hasattr(layer, "slot_axes") or bool(slots_of(layer) or keras_private.own_trainable(body(layer)))


def hidden(model: keras.layers.Layer, prefix: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """`(path, layer)` for sub-layers that `walk` cannot reach, because no attribute, list, tuple or dict holds them."""
    written = body(model)
    if is_user_written(written):
        yield from ((prefix + layer.name, layer) for layer in parts.hidden_layers(written))
    for reference, inner in children(model):
        yield from hidden(inner, prefix + parts.path_of(reference) + "/")
