"""A SLICE or a GATHER before an operator that ignores some of what it is given and cannot have it removed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_compress.tflite.dead_units.cut import set_last_of_shape, set_shape
from keras_compress.tflite.dead_units.units import Mask, Units, width
from keras_compress.tflite.dead_units.weighted import Layer, Weighted
from keras_compress.tflite.flatbuffer import Graph

# What one operator adds to the file beside the indices of GATHER: itself, its kind, its operands and its output.
# Measured on a dense layer of 784 inputs: SLICE 352 on a vector and 368 on an image, a second one 240; GATHER 252, a
# second one 208.
SLICE_BYTES = 368
GATHER_BYTES = 256
_MOST_AXES_OF_SLICE = 5
_RULE = Weighted()


@dataclass(frozen=True)
class Narrowing:
    """One way to take less.

    Attributes:
        source: Tensor to take from: the operator's input, or the image behind its flatten.
        kept: `(columns,)`, which columns of the weight stay.
        ranges: For each axis of the source the numbers that a SLICE takes; `None` for a GATHER along the last.
        cost_bytes: What the operator adds to the file.
    """

    source: int
    kept: Mask
    ranges: tuple[range, ...] | None
    cost_bytes: float


def narrow_inputs(graph: Graph, bits_per_weight: float) -> list[str]:
    """Insert a SLICE or GATHER where that makes the file smaller.

    Args:
        graph: Integer graph.
        bits_per_weight: What a weight of 0 takes in the file.

    Returns:
        A note for each operator inserted.
    """
    units, notes = Units(graph), []
    for op in list(graph.operators):
        if graph.kind(op) in Weighted.handles and _RULE.fits(units, op):
            layer = Layer(graph, op)
            best = _best(layer, bits_per_weight)
            if best is not None:
                notes.append(_narrow(layer, best))
    return notes


def _best(layer: Layer, bits: float) -> Narrowing | None:
    """The way that saves most, or None where none saves anything."""
    graph, weights = layer.graph, layer.weights
    alive: Mask = (weights.reshape(-1, weights.shape[-1]) != 0).any(0)
    buffer = graph.tensors[layer.weight].buffer
    readers = sum(graph.tensors[t].buffer == buffer for op in graph.operators for t in op.inputs if t >= 0)
    if alive.all() or readers > 1:
        return None
    if not alive.any():
        alive[0] = True
    column_bytes = weights.size / alive.size * bits / 8

    def saved(way: Narrowing) -> float:
        return float((~way.kept).sum() * column_bytes - way.cost_bytes)

    return max((way for way in _ways(layer, alive) if saved(way) > 0), key=saved, default=None)


def _ways(layer: Layer, alive: Mask) -> list[Narrowing]:
    graph, data = layer.graph, layer.data
    ways = []
    if width(graph, data) == alive.size:
        ones = [1] * (len(graph.shape(data)) - 1)
        ways.append(_slice(graph, data, alive.reshape(*ones, alive.size)))
        # The only integer type that TFLite-Micro gathers.
        if graph.dtype(data) == "int8":
            ways.append(Narrowing(data, alive, None, GATHER_BYTES + 4 * float(alive.sum())))
    flatten = _flatten_before(layer)
    image = data if flatten is None else flatten.inputs[0]
    if graph.kind(layer.op) == "FULLY_CONNECTED" and math.prod(graph.shape(image)) == alive.size:
        ways.append(_slice(graph, image, alive.reshape(graph.shape(image))))
    return [way for way in ways if len(graph.shape(way.source)) <= _MOST_AXES_OF_SLICE]


def _slice(graph: Graph, source: int, alive: Mask) -> Narrowing:
    """The smallest box that holds all that is alive; an axis of length 1 stands for all of the source's."""
    ranges = []
    box = np.ones(alive.shape, bool)
    for axis, size in enumerate(graph.shape(source)):
        used = np.flatnonzero(np.moveaxis(alive, axis, 0).reshape(alive.shape[axis], -1).any(1))
        taken = range(int(used[0]), int(used[-1]) + 1) if alive.shape[axis] == size else range(size)
        ranges.append(taken)
        if alive.shape[axis] == size:
            inside = np.isin(np.arange(size), taken)
            box &= inside.reshape([-1 if place == axis else 1 for place in range(alive.ndim)])
    return Narrowing(source, box.reshape(-1), tuple(ranges), SLICE_BYTES)


def _flatten_before(layer: Layer) -> Any:
    """The RESHAPE that makes the data for this operator alone, or None."""
    graph, data = layer.graph, layer.data
    makers = [op for op in graph.operators if data in op.outputs]
    readers = sum(list(op.inputs).count(data) for op in graph.operators)
    if len(makers) != 1 or graph.kind(makers[0]) != "RESHAPE" or readers > 1 or data in graph.outputs:
        return None
    fixed = all(graph.is_constant(t) for t in makers[0].inputs[1:])
    flat = width(graph, data) == width(graph, layer.weight) == math.prod(graph.shape(data))
    return makers[0] if fixed and flat else None


def _narrow(layer: Layer, way: Narrowing) -> str:
    """Insert the operator and cut the weight; returns the note."""
    graph, op = layer.graph, layer.op
    before, after = int(way.kept.size), int(way.kept.sum())
    reader = op if way.source == layer.data else _flatten_before(layer)
    operator = _operator(graph, way)
    graph.set_constant(layer.weight, layer.weights[..., way.kept])
    if reader is not op:
        set_shape(graph, layer.data, (*graph.shape(layer.data)[:-1], after))
        set_last_of_shape(graph, reader, after)
    reader.inputs = [operator.outputs[0] if t == way.source else t for t in reader.inputs]
    place = next(number for number, other in enumerate(graph.operators) if other is reader)
    graph.operators = [*graph.operators[:place], operator, *graph.operators[place:]]
    kind = graph.kind(operator)
    return f"{kind} before {graph.kind(op)} {graph.name(layer.output)!r}: {after} of {before} inputs are used"


def _operator(graph: Graph, way: Narrowing) -> Any:
    source = way.source
    shape = graph.shape(source)
    sizes = [*shape[:-1], int(way.kept.sum())] if way.ranges is None else [len(taken) for taken in way.ranges]
    made = graph.add_tensor("used", sizes, graph.dtype(source))
    graph.tensors[made].quantization = graph.tensors[source].quantization
    signature = _signature(graph, source, sizes)
    if -1 in signature:
        graph.tensors[made].shapeSignature = signature
    if way.ranges is None:
        options = schema.GatherOptionsT()
        options.axis = len(shape) - 1
        places = graph.add_constant("places", np.flatnonzero(way.kept).astype(np.int32))
        return graph.make_operator("GATHER", [source, places], [made], options)
    begin = graph.add_constant("begin", np.array([taken.start for taken in way.ranges], np.int32))
    taken = graph.add_constant("sizes", np.array(signature, np.int32))
    return graph.make_operator("SLICE", [source, begin, taken], [made], schema.SliceOptionsT())


def _signature(graph: Graph, source: int, sizes: list[int]) -> list[int]:
    """The sizes, with -1 for an axis taken whole whose size LiteRT may be told later, as that of the samples."""
    held = graph.tensors[source].shapeSignature
    if held is None or len(held) != len(sizes):
        return sizes
    return [
        -1 if old < 0 and size == whole else size
        for old, size, whole in zip(held, sizes, graph.shape(source), strict=True)
    ]
