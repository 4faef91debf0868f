"""Statistics of the channels' values over the examples, at the places where they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from numpy.typing import NDArray

from keras_compress.data.examples import Examples
from keras_compress.graph import graph as keras_graph
from keras_compress.structured.channel_graph import ChannelGraph, Reading
from keras_compress.structured.rules.shapes import FlattenRule, SpatialRule

# `(values, channels)` -> sums over the values.
Statistic = Callable[[tf.Tensor], Sequence[tf.Tensor]]
# Between an activation and its reader: what tells less about a channel than the values before it.
LOOKED_THROUGH = {*SpatialRule.handles, *FlattenRule.handles, "Dropout", "SpatialDropout1D", "SpatialDropout2D"}


@dataclass(frozen=True)
class Activation:
    """A tensor whose channels are read.

    Attributes:
        tensor: Symbolic tensor of the model or of one nested in it.
        axis: Its channel axis.
        units: The unit of each channel.
    """

    tensor: Any
    axis: int
    units: NDArray[np.int32]


def activations(graph: ChannelGraph) -> list[Activation]:
    """The tensors whose prunable channels are read, each once, before pooling and flattening."""
    prunable = np.zeros(graph.unit_count, bool)
    for group in graph.prunable:
        prunable[group.units] = True
    producers = _producers(graph.model)
    found: dict[tuple[int, int], Activation] = {}
    for reading in graph.readings:
        each = _looked_through(graph, reading, producers)
        if prunable[each.units].any():
            found.setdefault((id(each.tensor), each.axis), each)
    return list(found.values())


def _producers(model: keras.Model) -> dict[int, Any]:
    """`id(tensor)` -> the node that makes it, in nested models too."""
    found: dict[int, Any] = {}
    for node in keras_graph.nodes(model):
        found.update((id(tensor), node) for tensor in node.outputs)
        if keras_graph.is_graph(node.operation):
            found.update(_producers(node.operation))
    return found


def _looked_through(graph: ChannelGraph, reading: Reading, producers: Mapping[int, Any]) -> Activation:
    tensor, axis, units = reading.tensor, reading.axis, graph.units[reading.ids]
    while axis == len(tensor.shape) - 1 and id(tensor) in producers:
        source = _source(tensor, producers[id(tensor)])
        width = None if source is None else source.shape[-1]
        if not width or len(units) % width or np.any(units != np.tile(units[:width], len(units) // width)):
            break
        tensor, axis, units = source, len(source.shape) - 1, units[:width]
    return Activation(tensor, axis, units)


def _source(tensor: Any, node: Any) -> Any:
    """What the values of a tensor come from without a change that counts; `None` where its own are wanted."""
    if keras_graph.is_graph(node.operation):
        number = next(i for i, output in enumerate(node.outputs) if output is tensor)
        return keras_graph.functional(node.operation).outputs[number]
    return node.input_tensors[0] if type(node.operation).__name__ in LOOKED_THROUGH else None


def summed(
    graph: ChannelGraph, examples: Examples, places: Sequence[Activation], statistic: Statistic
) -> list[list[NDArray[np.float64]]]:
    """A statistic of each place, summed over all examples, and over all calls of a nested model."""

    def of_batch(inputs: Any) -> list[Sequence[tf.Tensor]]:
        values = _values(graph.model, inputs, {id(each.tensor) for each in places})
        return [_joint(statistic, [_rows(value, each.axis) for value in values[id(each.tensor)]]) for each in places]

    function = tf.function(of_batch, reduce_retracing=True)
    total: list[list[Any]] = [[] for _ in places]
    for inputs, _ in examples:
        found = function(tree.map_structure(tf.convert_to_tensor, inputs))
        for before, new in zip(total, found, strict=True):
            before[:] = [a + np.asarray(b, np.float64) for a, b in zip(before or [0.0] * len(new), new, strict=True)]
    return total


def _joint(statistic: Statistic, calls: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [tf.add_n(list(parts)) for parts in zip(*map(statistic, calls), strict=True)]


def _rows(value: tf.Tensor, axis: int) -> tf.Tensor:
    """A tensor as a matrix `(values, channels)`."""
    last = keras.ops.moveaxis(value, axis, -1)
    return tf.cast(tf.reshape(last, [-1, last.shape[-1]]), tf.float32)


def _values(model: keras.Model, inputs: Any, wanted: set[int]) -> dict[int, list[tf.Tensor]]:
    """`id(symbolic tensor)` -> its values in inference, one for each call of the model that it is in."""
    found: dict[int, dict[int, tf.Tensor]] = {key: {} for key in wanted}

    def visit(call: keras_graph.Call) -> Any:
        made = call.run()
        symbolic = tree.flatten((*keras_graph.arguments_of(call.node), call.node.outputs))
        for old, new in zip(symbolic, tree.flatten((call.args, call.kwargs, made)), strict=True):
            if id(old) in wanted:
                found[id(old)][id(new)] = new
        return made

    keras_graph.Rebuild(visit, flat=True).run(model, _in_order(model, inputs), "", 0)
    return {key: list(values.values()) for key, values in found.items()}


def _in_order(model: keras.Model, inputs: Any) -> list[tf.Tensor]:
    """Inputs in the order of the graph, in its dtypes."""
    expected = keras_graph.functional(model).inputs
    names = [tensor.name for tensor in expected]
    named = isinstance(inputs, Mapping) and set(names) <= set(inputs)
    given = [inputs[name] for name in names] if named else tree.flatten(inputs)
    return [tf.cast(value, tensor.dtype) for value, tensor in zip(given, expected, strict=True)]
