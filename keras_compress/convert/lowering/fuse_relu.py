"""RELU behind TRANSPOSE_CONV as its fused activation, where the converter has left it an operator of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from keras_compress.convert.flatbuffer import Graph
from keras_compress.convert.lowering.grid import Grid

_FUSED = {
    "RELU": schema.ActivationFunctionType.RELU,
    "RELU6": schema.ActivationFunctionType.RELU6,
    "RELU_N1_TO_1": schema.ActivationFunctionType.RELU_N1_TO_1,
}


def fuse_relu(graph: Graph, grids: Mapping[int, Grid]) -> None:
    """Fuse it where the sums between the two have no grid of their own.

    The converter fuses an activation with the addition of a bias, and so not at all where there is none.
    """
    readers = graph.consumers()
    gone: set[int] = set()
    for op in graph.operators:
        if graph.kind(op) != "TRANSPOSE_CONV" or op.outputs[0] in grids or op.outputs[0] in graph.outputs:
            continue
        following: list[Any] = readers.get(op.outputs[0], [])
        if len(following) == 1 and graph.kind(following[0]) in _FUSED and not op.builtinOptions.fusedActivationFunction:
            op.builtinOptions.fusedActivationFunction = _FUSED[graph.kind(following[0])]
            op.outputs = list(following[0].outputs)
            gone.add(id(following[0]))
    graph.operators = [op for op in graph.operators if id(op) not in gone]
