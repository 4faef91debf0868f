"""Operators split along their outputs, so that one piece of their weights is decoded at a time."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.lowering.versions import set_versions

TILED = ("FULLY_CONNECTED", "CONV_2D")
_DATA, _WEIGHT, _BIAS = 0, 1, 2
# TFLite-Micro's CONCATENATION takes no more inputs.
JOINED_AT_ONCE = 10


def tile_outputs(graph: Graph, parts: Mapping[int, int]) -> list[str]:
    """Split FULLY_CONNECTED and CONV_2D operators along their outputs, and join the pieces by CONCATENATION.

    Each piece has constants of its own: a run of output channels, as equal in length as can be, longer ones first.
    Sums, rounding and activation are those of the whole operator, so every output is the same integer. More than ten
    pieces are joined ten at a time.

    Args:
        graph: Graph of a `.tflite` file.
        parts: Weight tensor -> number of pieces; 1 leaves its operator as it is.

    Returns:
        A note for each operator that was split, and for each weight that was not, with the reason.

    Raises:
        ValueError: For a number of pieces below 1 or above `most_parts`.
    """
    notes: list[str] = []
    wanted: dict[int, int] = {}
    for weight, count in parts.items():
        reason = tiling_refusal(graph, weight) if count != 1 else None
        if reason is not None:
            notes.append(f"{graph.name(weight)!r} is not split: {reason}")
        elif count != 1:
            wanted[weight] = _checked(graph, weight, count)
    operators: list[Any] = []
    for op in graph.operators:
        count = wanted.get(op.inputs[_WEIGHT], 1) if graph.kind(op) in TILED else 1
        if count > 1:
            notes.append(f"{graph.kind(op)} at {graph.name(op.outputs[0])!r} is split into {count} along its outputs")
        operators += [op] if count == 1 else _tiled(graph, op, count)
    graph.operators = operators
    if wanted:
        set_versions(graph)
    return notes


def tiling_refusal(graph: Graph, weight: int) -> str | None:
    """Why the operator of a weight cannot be split along its outputs; `None` where it can."""
    readers = graph.consumers().get(weight, [])
    kinds = [graph.kind(op) for op in readers]
    if len(readers) != 1:
        return f"{len(readers)} operators read it ({', '.join(kinds) or 'none'})"
    op = readers[0]
    if kinds[0] not in TILED or op.inputs[_WEIGHT] != weight:
        return f"{kinds[0]} is none of {', '.join(TILED)}" if kinds[0] not in TILED else "it is not the weight"
    bias = _bias(op)
    if not graph.is_constant(weight) or (bias >= 0 and not graph.is_constant(bias)):
        return "its weight or bias is computed, not constant"
    if weight in graph.outputs:
        return "the model gives it out"
    if len(op.outputs) != 1 or len(graph.shape(op.outputs[0])) < 2:
        return "its output is not of shape (..., outputs)"
    if kinds[0] == "CONV_2D" and graph.shape(op.inputs[_DATA])[-1] != graph.shape(weight)[-1]:
        return "it is a grouped convolution"
    if kinds[0] == "FULLY_CONNECTED" and op.builtinOptions is not None and op.builtinOptions.weightsFormat:
        return "its weights are in a shuffled format"
    return None


def most_parts(graph: Graph, weight: int) -> int:
    """How many pieces a weight can be split into.

    One output each; two for a dense layer with a scale for each output, because TFLite-Micro computes the multiplier
    of a dense layer with a single scale in float32 and could round otherwise.
    """
    outputs = graph.shape(weight)[0]
    found = graph.quantization(weight)
    dense = graph.kind(graph.consumers()[weight][0]) == "FULLY_CONNECTED"
    return max(1, outputs // 2) if dense and found is not None and found[0].size > 1 else outputs


def _checked(graph: Graph, weight: int, count: int) -> int:
    most = most_parts(graph, weight)
    if not 1 <= count <= most:
        raise ValueError(
            f"Expected 1 to {most} pieces of {graph.name(weight)!r}, of shape {graph.shape(weight)}. Received: {count}"
        )
    return count


def _bias(op: Any) -> int:
    return op.inputs[_BIAS] if len(op.inputs) > _BIAS else -1


def _tiled(graph: Graph, op: Any, count: int) -> list[Any]:
    """The pieces and what joins them, in the order of execution."""
    output = op.outputs[0]
    pieces = np.array_split(np.arange(graph.shape(op.inputs[_WEIGHT])[0]), count)
    tiles = [_piece(graph, op, slice(int(rows[0]), int(rows[-1]) + 1), number) for number, rows in enumerate(pieces)]
    return _joined(graph, tiles, output)


def _piece(graph: Graph, op: Any, rows: slice, number: int) -> Any:
    """The operator for some of the outputs."""
    tile = copy.copy(op)
    tile.inputs, output = list(op.inputs), op.outputs[0]
    for position in (_WEIGHT, _BIAS):
        if position < len(op.inputs) and op.inputs[position] >= 0:
            tile.inputs[position] = _cut(graph, op.inputs[position], rows, number)
    shape = (*graph.shape(output)[:-1], rows.stop - rows.start)
    tile.outputs = [
        _like(graph, output, graph.add_tensor(f"{graph.name(output)}/part_{number}", shape, graph.dtype(output)))
    ]
    return tile


def _cut(graph: Graph, tensor: int, rows: slice, number: int) -> int:
    """A constant's rows, as a constant of their own with their own scales."""
    values, dtype = graph.constant(tensor), graph.dtype(tensor)
    made = graph.add_constant(f"{graph.name(tensor)}/part_{number}", _rows(values, rows))
    if dtype in ("int4", "int2"):
        graph.pack_constant(made, int(dtype.removeprefix("int")))
    return _like(graph, tensor, made, rows)


def _rows(values: NDArray[Any] | None, rows: slice) -> NDArray[Any]:
    if values is None:
        raise ValueError("Expected a constant. Received: a computed tensor")
    return np.ascontiguousarray(values[rows])


def _like(graph: Graph, tensor: int, made: int, rows: slice = slice(None)) -> int:
    """Put the scales of one tensor, or those of some rows, on another."""
    found = graph.quantization(tensor)
    if found is not None:
        scales, zero_point = found
        graph.set_quantization(made, scales[rows] if scales.size > 1 else scales, zero_point)
    return made


def _joined(graph: Graph, tiles: Sequence[Any], output: int) -> list[Any]:
    """The pieces, each group of ten followed by the CONCATENATION that frees its inputs."""
    if len(tiles) == 1:
        tiles[0].outputs = [output]
        return list(tiles)
    width = 1
    while width * JOINED_AT_ONCE < len(tiles):
        width *= JOINED_AT_ONCE
    operators: list[Any] = []
    ends: list[int] = []
    for start in range(0, len(tiles), width):
        group = tiles[start : start + width]
        operators += _joined(graph, group, _end(graph, group, output))
        ends.append(operators[-1].outputs[0])
    options = schema.ConcatenationOptionsT()
    options.axis = len(graph.shape(output)) - 1
    return [*operators, graph.make_operator("CONCATENATION", ends, [output], options)]


def _end(graph: Graph, group: Sequence[Any], output: int) -> int:
    """The tensor that a group ends in: its only piece's own, or a new one."""
    if len(group) == 1:
        return int(group[0].outputs[0])
    channels = sum(graph.shape(tile.outputs[0])[-1] for tile in group)
    name = f"{graph.name(group[0].outputs[0])}_and_{len(group) - 1}_more"
    made = graph.add_tensor(name, (*graph.shape(output)[:-1], channels), graph.dtype(output))
    return _like(graph, output, made)
