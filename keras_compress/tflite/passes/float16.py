"""Weights stored as float16, computed in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_compress.tflite.flatbuffer import Graph

SMALLEST_SIZE = 2


def store_float16(graph: Graph) -> list[str]:
    """Store each float32 constant as float16 behind a DEQUANTIZE; a scalar is not worth one.

    Returns:
        A note for each constant that stays float32 because it is beyond float16's range.
    """
    widened: dict[int, int] = {}
    first: list[Any] = []
    notes: list[str] = []
    for op in graph.operators:
        for operand, tensor in enumerate(op.inputs):
            values = graph.constant(tensor) if tensor >= 0 else None
            if values is None or values.dtype != np.float32 or values.size < SMALLEST_SIZE:
                continue
            if tensor not in widened:
                with np.errstate(over="ignore"):
                    half = values.astype(np.float16)
                if np.isfinite(half).all():
                    widened[tensor] = _dequantized(graph, tensor, half, first)
                else:
                    widened[tensor] = tensor
                    notes.append(f"{graph.name(tensor)!r} stays float32: beyond float16's range")
            op.inputs[operand] = widened[tensor]
    graph.operators = [*first, *graph.operators]
    return notes


def _dequantized(graph: Graph, tensor: int, half: Any, operators: list[Any]) -> int:
    stored = graph.add_constant(f"{graph.name(tensor)}/float16", half)
    wide = graph.add_tensor(f"{graph.name(tensor)}/float32", half.shape, "float32")
    operators.append(graph.make_operator("DEQUANTIZE", [stored], [wide], schema.DequantizeOptionsT()))
    return wide
