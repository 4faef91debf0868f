"""Where activations are quantized: after every operation that makes new values, as the int8 kernels do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_compress.core import keras_private
from keras_compress.core.batch_norm import foldable
from keras_compress.core.printable import scope_name
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph
from keras_compress.graph.model import LayerCopies, copy_layer, inner
from keras_compress.quantizers.activation import FixedGrid, QuantizeActivation
from keras_compress.quantizers.activation_grid import ActivationGrid
from keras_compress.quantizers.kinds import (
    FIXED_GRID_16,
    FIXED_GRIDS,
    FUSED_ACTIVATIONS,
    Kind,
    Place,
    activation_name,
    kind_of,
    kind_of_call,
    may_follow,
    splits,
)
from keras_compress.quantizers.round_average import RoundAverage, grid_of

Node = Any
QuantizerFactory = Callable[[str, Place], ActivationGrid | None]


def is_float(tensor: Any) -> bool:
    """Whether a symbolic tensor holds floating-point numbers."""
    return str(tensor.dtype).startswith(("float", "bfloat"))


def points_of(model: keras.Model, through: bool = False) -> set[int]:
    """`id(node)` of the calls after which integers stand, in one graph (nested models have their own).

    Args:
        model: The graph.
        through: Whether a call that only moves values stands between no two others, see `reader_of`.
    """
    table = graph.consumers(model)
    points = set()
    for node in graph.nodes(model):
        if graph.is_graph(node.operation) or isinstance(node.operation, QuantizeActivation):
            continue
        if not _makes_values(node, (reader_of if through else graph.sole_consumer)(node, model, table)):
            continue
        # Values that are only moved on their way to a point are on its grid already, but for those on a fixed one.
        moved = kind_of(node.operation) is not Kind.FIXED and point_behind(node, model, table) is not None
        if not moved and not _joined(node, model, table):
            points.add(id(node))
    return points


def reader_of(node: Node, model: keras.Model, table: dict[int, list[Node]]) -> Node | None:
    """What alone reads the output of a call, reshapes and permutations of a layer that was taken apart looked through.

    The kernel takes along what stands behind them: a ReLU, and a normalization if the channels stay last. For points
    see `point_behind`.
    """
    first = reader = graph.sole_consumer(node, model, table)
    while reader is not None and type(reader.operation).__name__ in ("Reshape", "Permute"):
        reader = graph.sole_consumer(reader, model, table)
    if first is reader or reader is None:
        return first
    kind, operation = kind_of(reader.operation), reader.operation
    if kind is Kind.NORM:
        return reader if foldable(node.operation, operation) and _channels_kept(first, reader) else first
    return reader if kind is Kind.CLAMP else first


def _channels_kept(first: Node, last: Node) -> bool:
    """Whether the calls from `first` to before `last` are reshapes that leave the last axis alone."""
    tensors = [last.input_tensors[0]]
    while tensors[-1] is not first.outputs[0]:
        tensors.append(keras_private.call_node(tensors[-1]).input_tensors[0])
    tensors.append(first.input_tensors[0])
    reshapes = all(type(keras_private.call_node(t).operation).__name__ == "Reshape" for t in tensors[:-1])
    return reshapes and len({t.shape[-1] for t in tensors}) == 1


def point_behind(node: Node, model: keras.Model, table: dict[int, list[Node]], *, joined: bool = False) -> Node | None:
    """The point that all a call makes goes to, through nothing but calls that move values; `None` where there is none.

    Args:
        node: The call.
        model: The graph it is in.
        table: What `graph.consumers` gives for it.
        joined: Whether calls that put it together with other tensors are looked through too.
    """
    kinds = (Kind.SAME, Kind.JOIN) if joined else (Kind.SAME,)
    reader = graph.sole_consumer(node, model, table)
    while reader is not None and kind_of(reader.operation) in kinds and not graph.is_graph(reader.operation):
        reader = graph.sole_consumer(reader, model, table)
    point = None if reader is None else reader.operation
    return reader if isinstance(point, QuantizeActivation) and not point.quantizer.replaces_relu else None


def kind_of_node(node: Node) -> Kind:
    """The kind of a call."""
    tensors = node.input_tensors
    return kind_of_call(node.operation, tensors[0].shape) if tensors else kind_of(node.operation)


def _makes_values(node: Node, reader: Node | None) -> bool:
    kind = kind_of_node(node)
    if kind in (Kind.SAME, Kind.AVERAGE) or not all(is_float(t) for t in node.outputs):
        return False
    if reader is None:
        return True
    if isinstance(reader.operation, QuantizeActivation):
        # A sign comes out of the sums of weights; of anything else it is taken from integers.
        return reader.operation.quantizer.replaces_relu and kind not in (Kind.LINEAR, Kind.NORM)
    after = kind_of(reader.operation)
    if after is Kind.NORM:
        return not foldable(node.operation, reader.operation)
    return not may_follow(kind, node.operation, after)


def _joined(node: Node, model: keras.Model, table: dict[int, list[Node]]) -> bool:
    """Whether all that `node` makes ends in one concatenation, whose range then serves it too.

    Values whose range the runtime fixes cannot take another one, and means have a range of their own.
    """
    if kind_of_node(node) in (Kind.FIXED, Kind.MEAN) or splits(node.operation) in FIXED_GRIDS:
        return False
    return len(_destinations(node, model, table)) == 1 and None not in _destinations(node, model, table)


def _destinations(node: Node, model: keras.Model, table: dict[int, list[Node]]) -> set[int | None]:
    """`id` of the concatenations that `node` leads to through calls that keep the scale; `None` for anything else."""
    outputs = graph.functional(model).outputs
    if any(tensor is out for tensor in node.outputs for out in outputs):
        return {None}
    destinations: set[int | None] = set()
    for reader in (reader for tensor in node.outputs for reader in table.get(id(tensor), [])):
        kind = kind_of(reader.operation)
        if kind is Kind.SAME and not graph.is_graph(reader.operation):
            destinations |= _destinations(reader, model, table)
        else:
            destinations.add(id(reader) if kind is Kind.JOIN else None)
    return destinations or {None}


def _place_of(node: Node) -> Place:
    """What is known of the values that a call makes."""
    if activation_name(node.operation) in FUSED_ACTIVATIONS:
        return Place.RELU
    if _is_bounded_relu(node.operation):
        return Place.NON_NEGATIVE
    passes = kind_of(node.operation) in (Kind.SAME, Kind.AVERAGE, Kind.MEAN, Kind.JOIN) and node.input_tensors
    if passes and all(_place_of(keras_private.call_node(t)) is not Place.ANYWHERE for t in node.input_tensors):
        return Place.NON_NEGATIVE
    return Place.ANYWHERE


def _is_bounded_relu(operation: Any) -> bool:
    """A ReLU with another upper end than 6: no kernel fuses it, but its values are not negative."""
    return isinstance(operation, keras.layers.ReLU) and operation.negative_slope == 0 and operation.threshold == 0


@dataclass
class PlacePoints:
    """Visitor that rebuilds a model with a `QuantizeActivation` at each point.

    Args:
        quantizer: Makes the quantizer of a point from the path of the layer whose values it rounds (of the conv in
            conv -> BatchNormalization -> ReLU) and what is known of them; `None` for no point there.
        private: The model is nobody else's: its layers go into the new one, which is not used beside it.
    """

    quantizer: QuantizerFactory
    private: bool = False
    _copies: LayerCopies = field(init=False)
    _points: set[int] = field(default_factory=set)
    _roots: dict[int, str] = field(default_factory=dict)
    _activations: dict[int, keras.layers.Layer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        make = _moved if self.private else _without_unfused_activation
        self._copies = LayerCopies(make, inside=False)

    def place(self, model: keras.Model) -> keras.Model:
        """The new model."""
        self._collect(model)
        pointed = {id(t) for t, readers in _input_readers(model) if _has_point(readers)}
        numbers = {id(t) for t, readers in _input_readers(model) if readers and all(map(_reads_numbers, readers))}
        inputs = {t.name: id(t) in pointed | numbers for t in graph.functional(model).inputs}
        return graph.Rebuild(self, enter=lambda t: t if inputs[t.name] else self._input_point(t)).model(model)

    def _collect(self, model: keras.Model) -> None:
        self._points |= points_of(model, through=self.private)
        for layer in model.layers:
            if graph.is_graph(layer):
                self._collect(layer)

    def __call__(self, call: graph.Call) -> Any:
        root = self._root(call)
        activation = splits(call.operation)
        if activation is not None:
            outputs = self._point(call, self._copied(call), "_linear", self.quantizer(root, Place.ANYWHERE))
            outputs = self._activation(call.operation, activation)(outputs)
        if id(call.node) not in self._points:
            return self._unpointed(call) if activation is None else outputs
        made = self.quantizer(root, Place.MEAN if kind_of_node(call.node) is Kind.MEAN else _place_of(call.node))
        if activation is None:
            outputs = self._without_relu(call) if made is not None and made.replaces_relu else self._copied(call)
        fixed = activation or (activation_name(call.operation) if kind_of(call.operation) is Kind.FIXED else None)
        if made is not None and fixed in FIXED_GRIDS:
            made = FixedGrid(*FIXED_GRID_16, bits=16) if made.bits == 16 else FixedGrid(*FIXED_GRIDS[fixed])
        return self._point(call, outputs, "", made)

    def _copied(self, call: graph.Call) -> Any:
        """The call in the new model."""
        if not self.private:
            return self._copies(call)
        is_layer = isinstance(call.operation, keras.layers.Layer)
        return call.again(self._copies.of(call.path, call.operation) if is_layer else call.operation)

    def _unpointed(self, call: graph.Call) -> Any:
        """A call behind which there is no point; means that stay on a grid are rounded to it on the device."""
        outputs = self._copied(call)
        averages = kind_of_node(call.node) is Kind.AVERAGE and isinstance(outputs, keras.KerasTensor)
        if self.private or not averages or grid_of(outputs) is None:
            return outputs
        again = f"_{call.index}" if call.index else ""
        return RoundAverage(call.operation.name, name=f"{call.operation.name}_rounded{again}")(outputs)

    def _without_relu(self, call: graph.Call) -> Any:
        """What a ReLU would see: a quantizer takes its place."""
        if kind_of(call.operation) is Kind.CLAMP:
            tensor = call.args[0]
            if kind_of(keras_private.call_node(call.node.input_tensors[0]).operation) in (Kind.LINEAR, Kind.NORM):
                return tensor
            return self._point(call, tensor, "_input", self.quantizer(self._root(call), Place.ANYWHERE))
        copied = self._copies.of(call.path, call.operation)
        inner(copied).activation = keras.activations.linear
        return call.run(copied)

    def _root(self, call: graph.Call) -> str:
        """Path of the layer that a chain of fused ones begins with."""
        inputs = call.node.input_tensors
        fused = kind_of(call.operation) in (Kind.NORM, Kind.CLAMP) and len(inputs) == 1
        root = self._roots.get(id(inputs[0]), call.path) if fused else call.path
        if id(call.node) not in self._points and not isinstance(call.operation, QuantizeActivation):
            self._roots.update({id(t): root for t in call.node.outputs})
        return root

    def _activation(self, layer: keras.layers.Layer, activation: str) -> keras.layers.Layer:
        if id(layer) not in self._activations:
            name = f"{layer.name}_{activation}"
            self._activations[id(layer)] = keras.layers.Activation(inner(layer).activation, name=name)
        return self._activations[id(layer)]

    def _point(self, call: graph.Call, tensor: Any, suffix: str, made: ActivationGrid | None) -> Any:
        if made is None or not isinstance(tensor, keras.KerasTensor):
            return tensor
        again = f"_{call.index}" if call.index else ""
        name = f"{call.operation.name}{suffix}_quantized{again}"
        return QuantizeActivation(made, stands_for=call.operation.name, name=name).behind(tensor)

    def _input_point(self, tensor: Any) -> Any:
        made = self.quantizer(tensor.name, Place.ANYWHERE) if is_float(tensor) else None
        if made is None:
            return tensor
        name = f"{scope_name(tensor.name)}_quantized"
        return QuantizeActivation(made, stands_for=tensor.name, name=name).behind(tensor)


def _input_readers(model: keras.Model) -> list[tuple[Any, list[Node]]]:
    table = graph.consumers(model)
    return [(t, table.get(id(t), [])) for t in graph.functional(model).inputs]


def _has_point(readers: list[Node]) -> bool:
    """Whether a point of their own gives inputs integers; a sign takes them from integers."""
    points = [node.operation for node in readers if isinstance(node.operation, QuantizeActivation)]
    return bool(points) and not any(point.quantizer.replaces_relu for point in points)


def _reads_numbers(node: Node) -> bool:
    """Whether a call takes its input for the numbers of rows, which no range may touch."""
    layer = node.operation
    return type(inner(layer) if isinstance(layer, keras.layers.Layer) else layer).__name__ in (
        "Embedding",
        "Rows",
        "PresentToken",
    )


def _moved(path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer itself, where it needs no change."""
    return layer if splits(layer) is None else _without_unfused_activation(path, layer)


def _without_unfused_activation(path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
    """A copy whose activation, where no kernel fuses it, is left to a layer of its own."""
    if splits(layer) is None:
        return copy_layer(layer)
    if not isinstance(layer, Compressed):
        return copy_layer(layer, activation=None)
    return layer.remade(copy_layer(layer).transforms, copy_layer(layer.layer, activation=None))
