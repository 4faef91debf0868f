"""Types of the model's inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.grids import Grid

UINT8_SHIFT = 128


def set_io_types(graph: Graph, grids: Mapping[int, Grid], io: str) -> None:
    """Make the model take and give `io`; tensors that are not activations (token ids) stay as they are.

    Args:
        io: `"float32"` and `"uint8"` put a conversion at each place, `"int8"` and `"int16"` none.

    Raises:
        ValueError: An input or output has no activation range, or one of another width.
    """
    for tensor in (*graph.inputs, *graph.outputs):
        _check(graph, grids, tensor, io)
    if io in ("int8", "int16"):
        return
    first, last = [], []
    input_names, output_names = graph.interface_names()
    inputs, outputs = list(graph.inputs), list(graph.outputs)
    for place, tensor in enumerate(graph.inputs):
        if tensor in grids:
            name = f"serving_default_{input_names[place]}:0"
            outer = _outer(graph, tensor, name, grids[tensor], io)
            first.append(graph.make_operator("QUANTIZE", [outer], [tensor], schema.QuantizeOptionsT()))
            inputs[place] = outer
    for place, tensor in enumerate(graph.outputs):
        if tensor in grids:
            outer = _outer(graph, tensor, f"{output_names[place]}:0", grids[tensor], io)
            kind = "DEQUANTIZE" if io == "float32" else "QUANTIZE"
            options = schema.DequantizeOptionsT() if io == "float32" else schema.QuantizeOptionsT()
            last.append(graph.make_operator(kind, [tensor], [outer], options))
            outputs[place] = outer
    graph.operators = [*first, *graph.operators, *last]
    graph.set_interface(inputs, outputs)


def _check(graph: Graph, grids: Mapping[int, Grid], tensor: int, io: str) -> None:
    if io == "float32" or (tensor not in grids and graph.dtype(tensor) != "float32"):
        return
    grid, bits = grids.get(tensor), 16 if io == "int16" else 8
    if grid is None or grid.bits != bits:
        found = "no activation range" if grid is None else f"{grid.bits}-bit integers"
        raise ValueError(
            f"Expected {bits}-bit integers at every input and output for io={io!r}. "
            f"Received: {found} at {graph.name(tensor)!r}"
        )


def _outer(graph: Graph, tensor: int, name: str, grid: Grid, io: str) -> int:
    outer = graph.add_tensor(name, graph.shape(tensor), io)
    if io == "uint8":
        scale = np.array([grid.scale], np.float32)
        graph.set_quantization(outer, scale, grid.zero_point + UINT8_SHIFT)
    return outer
