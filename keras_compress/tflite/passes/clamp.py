"""The lower end of activations of few bits: an int8 MAXIMUM where no kernel clips there anyway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.grids import Grid
from keras_compress.tflite.lowering.rule import Lowering

# Fused activations whose lower end is the zero point.
_CLIPPING = (schema.ActivationFunctionType.RELU, schema.ActivationFunctionType.RELU6)


def clamp_points(state: Lowering, lowest: Mapping[str, int], points: dict[str, int]) -> None:
    """Put a MAXIMUM behind each point whose integers begin above the lowest of their type.

    The upper end needs none: such points sit at the top of int8, where kernels saturate.

    Args:
        state: The lowering, integers, inputs and outputs in place; a line for each MAXIMUM is noted.
        lowest: Name of a point -> its lowest integer, where that is above the lowest of its type.
        points: Name of a point -> its tensor; points at a model input move behind the MAXIMUM.
    """
    done: dict[int, int] = {}
    for name, limit in lowest.items():
        tensor = points[name]
        grid = state.grids[tensor]
        if tensor not in done:
            producer = state.graph.producers().get(tensor)
            clipped = producer is not None and _clips(state.graph, producer) and limit == grid.zero_point
            done[tensor] = tensor if clipped else _clamp(state.graph, tensor, grid, limit, producer)
            if not clipped:
                what = "whose range was trained" if grid.bits == 16 else "of fewer bits than 8"
                state.notes.append(f"MAXIMUM at {name!r}: a signed activation {what}")
        points[name] = done[tensor]


def _clips(graph: Graph, op: Any) -> bool:
    if graph.kind(op) in ("RELU", "RELU6"):
        return True
    return getattr(op.builtinOptions, "fusedActivationFunction", None) in _CLIPPING


def _clamp(graph: Graph, tensor: int, grid: Grid, limit: int, producer: Any) -> int:
    """Insert the MAXIMUM; returns the tensor that holds the clamped integers."""
    other = graph.add_tensor(f"{graph.name(tensor)}/unclamped", graph.shape(tensor), graph.dtype(tensor))
    lowest = graph.add_constant(f"{graph.name(tensor)}/lowest", np.array([limit], graph.dtype(tensor)))
    for made in (other, lowest):
        graph.set_quantization(made, np.array([grid.scale], np.float32), grid.zero_point)
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
