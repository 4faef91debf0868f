"""The lower end of activations of few bits: an int8 MAXIMUM where no kernel clips there anyway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_compress.convert.flatbuffer import Graph
from keras_compress.convert.plan import ActivationPoint

# Fused activations whose lower end is the zero point.
_CLIPPING = (schema.ActivationFunctionType.RELU, schema.ActivationFunctionType.RELU6)


def clamp_points(
    graph: Graph, points: Mapping[int, ActivationPoint], tensors: dict[str, int], notes: list[str]
) -> None:
    """Put a MAXIMUM behind each point whose integers begin above the lowest of their type.

    The upper end needs none: such points sit at the top of int8, where kernels saturate.

    Args:
        graph: Integer graph, inputs and outputs in place.
        points: The plan's points.
        tensors: Name of a point -> its tensor; points at a model input move behind the MAXIMUM.
        notes: A line for each MAXIMUM is added.
    """
    done: dict[int, int] = {}
    for point in points.values():
        lowest_of_type = -(2 ** (point.bits - 1))
        if point.lowest is None or point.lowest <= lowest_of_type:
            continue
        tensor = tensors[point.name]
        if tensor not in done:
            producer = graph.producers().get(tensor)
            clipped = producer is not None and _clips(graph, producer) and point.lowest == point.zero_point
            done[tensor] = tensor if clipped else _clamp(graph, tensor, point, producer)
            if not clipped:
                notes.append(f"MAXIMUM at {point.name!r}: a signed activation of fewer bits than 8")
        tensors[point.name] = done[tensor]


def _clips(graph: Graph, op: Any) -> bool:
    if graph.kind(op) in ("RELU", "RELU6"):
        return True
    return getattr(op.builtinOptions, "fusedActivationFunction", None) in _CLIPPING


def _clamp(graph: Graph, tensor: int, point: ActivationPoint, producer: Any) -> int:
    """Insert the MAXIMUM; returns the tensor that holds the clamped integers."""
    other = graph.add_tensor(f"{graph.name(tensor)}/unclamped", graph.shape(tensor), graph.dtype(tensor))
    lowest = graph.add_constant(f"{graph.name(tensor)}/lowest", np.array([point.lowest], graph.dtype(tensor)))
    for made in (other, lowest):
        graph.set_quantization(made, np.array([point.scale], np.float32), point.zero_point)
    if producer is None:
        # A model input of integer type: what reads it reads the clamped copy.
        for op in graph.operators:
            op.inputs = [other if i == tensor else i for i in op.inputs]
        source, target, place = tensor, other, 0
    else:
        producer.outputs = [other if i == tensor else i for i in producer.outputs]
        source, target, place = other, tensor, _position(graph, producer) + 1
    maximum = graph.make_operator("MAXIMUM", [source, lowest], [target], schema.MaximumMinimumOptionsT())
    graph.operators = [*graph.operators[:place], maximum, *graph.operators[place:]]
    return target


def _position(graph: Graph, op: Any) -> int:
    return next(i for i, other in enumerate(graph.operators) if other is op)
