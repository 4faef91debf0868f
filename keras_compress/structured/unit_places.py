"""Where the channels of a unit are on the axes of weights, and what they compute: for comparing units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.graph import graph as keras_graph
from keras_compress.graph.batch_norms import batch_norm_after
from keras_compress.structured.channel_graph import ChannelGraph, ChannelGroup, Removed, WeightAxis

# For each unit of a group, the positions of its channels on an axis, in an order that is the same for all units.
Places = NDArray[np.int64]
Weight = NDArray[np.float32]


class Values:
    """Values of a model's weights, which can be changed before they are written back."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[Any, Weight]] = {}

    def of(self, variable: Any) -> Weight:
        """The value now; to be changed in place."""
        if id(variable) not in self._held:
            self._held[id(variable)] = variable, np.array(keras.ops.convert_to_numpy(variable), np.float32)
        return self._held[id(variable)][1]

    def write(self) -> None:
        """Give the variables their values."""
        for variable, value in self._held.values():
            variable.assign(value)


class UnitPlaces:
    """The places of units on axes.

    Args:
        graph: Channel graph.
    """

    def __init__(self, graph: ChannelGraph) -> None:
        self._graph = graph
        order = np.argsort(graph.units, kind="stable")
        first = np.searchsorted(graph.units[order], np.arange(graph.unit_count))
        # Which of its unit's channels an id is. Makers hand ids out in the order of their channels.
        self._number = np.empty(len(order), np.int64)
        self._number[order] = np.arange(len(order)) - first[graph.units[order]]

    def on(self, axis: WeightAxis, group: ChannelGroup) -> Places | None:
        """`(units of the group, places of each)`; `None` where they differ in how often and as what they are there."""
        row_of = np.full(self._graph.unit_count, -1)
        row_of[group.units] = np.arange(len(group))
        rows = row_of[self._graph.units[axis.ids]]
        found = np.flatnonzero(rows >= 0)
        rows, numbers = rows[found], self._number[axis.ids[found]]
        counts = np.bincount(rows, minlength=len(group))
        if np.any(counts != counts[0]):
            return None
        order = np.lexsort((found, numbers, rows))
        numbers = numbers[order].reshape(len(group), -1)
        return found[order].reshape(len(group), -1) if np.all(numbers == numbers[0]) else None


def is_reader(axis: WeightAxis) -> bool:
    """Whether the outputs are linear in what an axis reads, by this weight alone.

    A separable convolution multiplies by two weights, of which the first acts on each channel.
    """
    return axis.role == "in" and axis.variable is not getattr(axis.layer, "depthwise_kernel", None)


def summed_without_weights(graph: ChannelGraph) -> Removed:
    """Units that something sums over without a weight for each: two of them are not one.

    A convolution in groups has weights for what it sums over, or groups of one channel, each for itself.
    """
    weighted = {id(each.layer) for each in graph.weights if is_reader(each)}
    summed = graph.none_removed()
    for reading in graph.readings:
        operation = reading.operation
        if operation is not None and id(operation) not in weighted and getattr(operation, "groups", 1) == 1:
            summed[graph.units[reading.ids]] = True
    return summed


def rows_of(value: Weight, axis: int, places: Places) -> Weight:
    """`(units, places, values at each)`."""
    moved = np.moveaxis(value, axis, 0)[places]
    return moved.reshape(*places.shape, -1)


class Descriptions:
    """What units compute from what they read, as vectors: their weights, with BatchNormalization folded in.

    Args:
        model: The model.
        values: Its weights.
    """

    def __init__(self, model: keras.Model, values: Values) -> None:
        self._values = values
        self._norm_after = _only_pairs(model)
        self._folded = {id(norm) for norm in self._norm_after.values()}

    def blocks(self, found: list[tuple[WeightAxis, Places]]) -> list[Weight]:
        """A matrix `(units, weights of each)` for each layer.

        Args:
            found: Axes of weights that make units, act on them or describe them.
        """
        by_layer: dict[int, list[tuple[WeightAxis, Places]]] = {}
        for each in found:
            by_layer.setdefault(id(each[0].layer), []).append(each)
        norms = {key: self._norm(axes) for key, axes in by_layer.items() if _is_norm(axes[0][0].layer)}
        blocks, used = [], set()
        for key, axes in by_layer.items():
            norm = norms.get(id(self._norm_after.get(key)))
            if key not in norms:
                fits = norm is not None and all(places.shape == norm[0].shape[:2] for _, places in axes)
                blocks.append(self._layer(axes, norm if fits else None))
                used |= {id(self._norm_after[key])} if fits else set()
        blocks += [np.concatenate(norm, axis=-1) for key, norm in norms.items() if key not in used]
        return [block.reshape(len(block), -1) for block in blocks]

    def _norm(self, axes: list[tuple[WeightAxis, Places]]) -> tuple[Weight, Weight]:
        """Factor and offset of a BatchNormalization, `(units, places, 1)`."""
        layer: Any = axes[0][0].layer
        deviation = np.sqrt(self._values.of(layer.moving_variance) + layer.epsilon)
        factor = (1.0 if layer.gamma is None else self._values.of(layer.gamma)) / deviation
        offset = (0.0 if layer.beta is None else self._values.of(layer.beta)) - factor * self._values.of(
            layer.moving_mean
        )
        places = axes[0][1]
        return factor[places][..., None], offset[places][..., None]

    def _layer(self, axes: list[tuple[WeightAxis, Places]], norm: tuple[Weight, Weight] | None) -> Weight:
        parts = []
        factor, offset = (1.0, None) if norm is None else norm
        for axis, places in axes:
            rows = rows_of(self._values.of(axis.variable), axis.axis, places) * factor
            if offset is not None and axis.variable is getattr(axis.layer, "bias", None):
                rows, offset = rows + offset, None
            parts.append(rows.reshape(len(rows), -1))
        if offset is not None:
            parts.append(offset.reshape(len(offset), -1))
        return np.concatenate(parts, axis=1)


def _is_norm(layer: Any) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def _only_pairs(model: keras.Model) -> dict[int, Any]:
    """`id(layer)` -> the BatchNormalization behind it, where each of the two is called in one place."""
    uses = Counter(id(node.operation) for node in all_nodes(model))
    pairs = batch_norm_after(model)
    return {key: norm for key, norm in pairs.items() if uses[key] == uses[id(norm)] == 1}


def all_nodes(model: keras.Model) -> Iterator[Any]:
    """The calls in a graph and in the graphs inside it, of each graph once."""
    seen: set[int] = set()
    graphs = [model]
    while graphs:
        current = graphs.pop()
        if id(current) not in seen:
            seen.add(id(current))
            nodes = keras_graph.nodes(current)
            graphs += [node.operation for node in nodes if keras_graph.is_graph(node.operation)]
            yield from nodes
