"""Factors for channels at the places where something without weights sums over them: there, too, masked means cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import tree
from numpy.typing import NDArray

from keras_compress.core import keras_private
from keras_compress.graph import graph as keras_graph
from keras_compress.graph.model import LayerCopies, copied, inner
from keras_compress.structured.channel_graph import ChannelGraph, Reading
from keras_compress.structured.dependency import channel_graph
from keras_compress.structured.rules.gate import ChannelGate

Factors = NDArray[np.float32]
# Gives the factors of the channels of a reading; `None`: it needs none.
FactorsOf = Callable[[Reading], Factors | None]


def without_weights(graph: ChannelGraph) -> list[Reading]:
    """Readings by something that has no weight for each channel, and no gate before it."""
    by_layer: dict[int, list[NDArray[Any]]] = {}
    for each in graph.weights:
        by_layer.setdefault(id(each.layer), []).append(graph.units[each.ids])
    found: dict[tuple[int, int, int], Reading] = {}
    for reading in graph.readings:
        units = graph.units[reading.ids]
        weighted = any(np.isin(units, own).all() for own in by_layer.get(id(reading.operation), []))
        # What leaves the model stays as it is.
        if reading.operation is not None and not weighted and not _is_gated(reading):
            found.setdefault((id(reading.tensor), reading.axis, id(reading.operation)), reading)
    return list(found.values())


def _is_gated(reading: Reading) -> bool:
    return isinstance(inner(keras_private.maker(reading.tensor)), ChannelGate)


def gated(graph: ChannelGraph, copies: LayerCopies, factors_of: FactorsOf) -> keras.Model:
    """A copy of the model with gates where `without_weights` finds readings.

    Args:
        graph: Channels of the model.
        copies: Makes the layers.
        factors_of: Gives the factors of the channels of a reading, or `None`.
    """
    readings: dict[tuple[int, int], list[tuple[Reading, Factors]]] = {}
    for each in without_weights(graph):
        factors = factors_of(each)
        if factors is not None:
            readings.setdefault((id(each.operation), id(each.tensor)), []).append((each, factors))
    gates = _Gates({layer.name for _, layer in keras_graph.walk(graph.model)})

    def visit(call: keras_graph.Call) -> Any:
        old = tree.flatten(keras_graph.arguments_of(call.node))
        new = tree.flatten((call.args, call.kwargs))
        for number, tensor in enumerate(old):
            for reading, factors in readings.get((id(call.operation), id(tensor)), []):
                new[number] = gates.of(reading, factors)(new[number])
        args, kwargs = tree.pack_sequence_as((call.args, call.kwargs), new)
        return copies.visit(keras_graph.Call(**{**vars(call), "args": args, "kwargs": kwargs}))

    made: keras.Model = keras_graph.Rebuild(visit).model(graph.model) if readings else copied(graph.model, copies)
    return made


class _Gates:
    """One gate for each tensor and axis, with a name of its own."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken
        self._made: dict[tuple[int, int], ChannelGate] = {}

    def of(self, reading: Reading, factors: Factors) -> ChannelGate:
        key = (id(reading.tensor), reading.axis)
        if key not in self._made:
            tensor = reading.tensor
            name = self._name(f"{keras_private.maker(tensor).name}_gate")
            made = ChannelGate(reading.axis, dtype=tensor.dtype if "float" in tensor.dtype else None, name=name)
            made.build(tensor.shape)
            made.gate.assign(factors)
            self._made[key] = made
        return self._made[key]

    def _name(self, base: str) -> str:
        names = [base, *(f"{base}_{number}" for number in range(1, len(self._taken) + 2))]
        name = next(name for name in names if name not in self._taken)
        self._taken.add(name)
        return name


def opened_to_masks(graph: ChannelGraph) -> ChannelGraph:
    """The channels of a copy of the model in which masks on weights are enough to do what a cut does.

    A gate of ones lies before each reading of prunable channels by something without weights.
    """
    prunable = np.zeros(graph.unit_count, bool)
    for group in graph.prunable:
        prunable[group.units] = True

    def ones(reading: Reading) -> Factors | None:
        return np.ones(len(reading.ids), np.float32) if prunable[graph.units[reading.ids]].any() else None

    return channel_graph(gated(graph, LayerCopies(inside=False), ones))


def without_gates(model: keras.Model) -> keras.Model:
    """A copy of the model without the gates that let everything through."""

    def visit(call: keras_graph.Call) -> Any:
        gate = call.operation
        if isinstance(gate, ChannelGate) and np.all(keras.ops.convert_to_numpy(gate.gate) == 1.0):
            return call.args[0]
        return copies(call)

    copies = LayerCopies(visit=visit, inside=False)
    made: keras.Model = copied(model, copies)
    return made
