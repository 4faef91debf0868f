"""Takes the markers out of a float flatbuffer and tells which tensor holds which activation point."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from keras_compress.convert.flatbuffer import Graph
from keras_compress.convert.lowering.grid import Grid
from keras_compress.convert.markers import marker_of_scale
from keras_compress.convert.plan import ActivationPoint


@dataclass
class MarkedTensors:
    """Where the markers stood.

    Attributes:
        grids: Tensor -> its grid.
        points: Point name -> tensor.
        owners: Tensor -> name of the first point on it.
        requantized: Tensor -> tensors that hold its values on other grids.
    """

    grids: dict[int, Grid] = field(default_factory=dict)
    points: dict[str, int] = field(default_factory=dict)
    owners: dict[int, str] = field(default_factory=dict)
    requantized: dict[int, list[int]] = field(default_factory=dict)


def strip_markers(graph: Graph, points: Mapping[int, ActivationPoint]) -> MarkedTensors:
    """Remove every QUANTIZE / DEQUANTIZE pair; readers of a marker read the marked tensor.

    Raises:
        ValueError: A marker has no point in the plan, two points share a name, or one tensor is wanted on
            two grids.
    """
    found = MarkedTensors()
    inside: dict[int, int] = {}  # output of a marker's QUANTIZE -> the tensor it marks
    behind: dict[int, int] = {}  # output of a marker's DEQUANTIZE -> the tensor it marks
    kept: list[Any] = []
    for op in graph.operators:
        kind = graph.kind(op)
        if kind == "QUANTIZE" and graph.dtype(op.inputs[0]) == "float32":
            point, source = _point(graph, op, points), op.inputs[0]
            if source in behind:
                inside[op.outputs[0]] = _mark_again(graph, found, behind[source], point, kept)
            else:
                inside[op.outputs[0]] = _mark(graph, found, source, point)
        elif kind == "DEQUANTIZE" and op.inputs[0] in inside:
            behind[op.outputs[0]] = inside[op.inputs[0]]
        else:
            # TensorFlow 2.18 leaves out a DEQUANTIZE that only a FULLY_CONNECTED would read.
            op.inputs = [behind.get(i, inside.get(i, i)) for i in op.inputs]
            kept.append(op)
    graph.operators = kept
    graph.set_interface(graph.inputs, [behind.get(i, i) for i in graph.outputs])
    _name_points(graph, found, points)
    return found


def _point(graph: Graph, op: Any, points: Mapping[int, ActivationPoint]) -> ActivationPoint:
    quantization = graph.quantization(op.outputs[0])
    marker_id = None if quantization is None else marker_of_scale(float(quantization[0][0]))
    if marker_id is None or marker_id not in points:
        raise ValueError(
            f"Expected every QUANTIZE of the float model to be a marker of the plan's {len(points)} points. "
            f"Received: {graph.name(op.outputs[0])!r} with scale {quantization and quantization[0][0]}"
        )
    return points[marker_id]


def _mark(graph: Graph, found: MarkedTensors, tensor: int, point: ActivationPoint) -> int:
    grid = Grid.of_point(point)
    if tensor in found.grids and found.grids[tensor] != grid:
        raise ValueError(
            f"Expected one range per tensor. Received: {found.owners[tensor]!r} and {point.name!r} want "
            f"{found.grids[tensor]} and {grid} on {graph.name(tensor)!r}"
        )
    found.grids[tensor] = grid
    found.owners.setdefault(tensor, point.name)
    _record(found, point, tensor)
    return tensor


def _mark_again(graph: Graph, found: MarkedTensors, tensor: int, point: ActivationPoint, operators: list[Any]) -> int:
    """A marker right behind a marker: the integers move to another grid in an op of their own."""
    grid = Grid.of_point(point)
    if found.grids[tensor] == grid:
        _record(found, point, tensor)
        return tensor
    for other in found.requantized.get(tensor, []):
        if found.grids[other] == grid:
            _record(found, point, other)
            return other
    moved = graph.add_tensor(f"{graph.name(tensor)}/requantized", graph.shape(tensor), "float32")
    operators.append(graph.make_operator("QUANTIZE", [tensor], [moved], schema.QuantizeOptionsT()))
    found.requantized.setdefault(tensor, []).append(moved)
    found.grids[moved] = grid
    found.owners[moved] = point.name
    _record(found, point, moved)
    return moved


def _record(found: MarkedTensors, point: ActivationPoint, tensor: int) -> None:
    # The converter may repeat a marker behind a RESHAPE that it moved: the first place is the point's.
    found.points.setdefault(point.name, tensor)


def _name_points(graph: Graph, found: MarkedTensors, points: Mapping[int, ActivationPoint]) -> None:
    names = [point.name for point in points.values()]
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise ValueError(f"Expected one name per activation point. Received: {repeated} more than once")
    lost = [name for name in names if name not in found.points]
    if lost:
        raise ValueError(f"Expected every activation point in the float model. Received: none for {lost}")
    named: set[int] = set()
    for name, tensor in found.points.items():
        if tensor not in named:
            named.add(tensor)
            graph.rename(tensor, name)
