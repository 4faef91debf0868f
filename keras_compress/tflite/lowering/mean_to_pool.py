"""MEAN over height and width as AVERAGE_POOL_2D, whose rounding every kernel agrees on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.grids import Grid


def mean_to_pool(graph: Graph, grids: Mapping[int, Grid]) -> None:
    """Rewrite global average pooling that keeps its input's grid.

    MEAN rounds differently on LiteRT's kernels and TFLM (a quarter of the outputs off by one step);
    AVERAGE_POOL_2D rounds half away from zero everywhere. A MEAN whose output has a grid of its own stays.
    """
    operators: list[Any] = []
    for op in graph.operators:
        if graph.kind(op) == "MEAN" and _keeps_grid(grids, op) and _is_spatial(graph, op):
            operators += _pool(graph, op)
        else:
            operators.append(op)
    graph.operators = operators


def _keeps_grid(grids: Mapping[int, Grid], op: Any) -> bool:
    output = grids.get(op.outputs[0])
    return output is None or output == grids.get(op.inputs[0])


def _is_spatial(graph: Graph, op: Any) -> bool:
    axes = graph.constant(op.inputs[1])
    rank = len(graph.shape(op.inputs[0]))
    return rank == 4 and axes is not None and sorted(int(a) % rank for a in axes.reshape(-1)) == [1, 2]


def _pool(graph: Graph, op: Any) -> list[Any]:
    source, target = op.inputs[0], op.outputs[0]
    batch, height, width, channels = graph.shape(source)
    options = schema.Pool2DOptionsT()
    options.padding = schema.Padding.VALID
    options.filterHeight, options.filterWidth = height, width
    options.strideH, options.strideW = 1, 1
    if len(graph.shape(target)) == 4:
        return [graph.make_operator("AVERAGE_POOL_2D", [source], [target], options)]
    pooled = graph.add_tensor(f"{graph.name(target)}/pooled", (batch, 1, 1, channels), "float32")
    shape = graph.add_constant(f"{graph.name(target)}/shape", np.array(graph.shape(target), np.int32))
    flat = schema.ReshapeOptionsT()
    flat.newShape = list(graph.shape(target))
    return [
        graph.make_operator("AVERAGE_POOL_2D", [source], [pooled], options),
        graph.make_operator("RESHAPE", [pooled, shape], [target], flat),
    ]
