"""The grid that a function which only TensorFlow understands writes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import tree

from keras_compress.convert.float_flatbuffer import ConversionError, float_model
from keras_compress.graph import graph
from keras_compress.graph.trace import trace
from keras_compress.quantizers.activation import FixedGrid
from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.grids import Grid
from keras_compress.tflite.lowering.ranges import spread_grids


def written_grid(call: graph.Call, grid_of: Callable[[Any], FixedGrid | None], bits: int) -> FixedGrid | None:
    """Where the operators that a function becomes decide their output's grid, such as SOFTMAX or RESHAPE, that grid.

    The function is converted alone, and the grids of its inputs are spread through its operators, as the lowering does.

    Args:
        call: Of a layer without weights.
        grid_of: Gives the grid that a tensor is on.
        bits: Of the activations, 8 or 16.

    Returns:
        The grid; `None` where any will do, an input has none, or there is not one output.
    """
    flat = tree.flatten((call.args, call.kwargs))
    tensors = [a for a in flat if isinstance(a, keras.KerasTensor)]
    grids = [grid for grid in map(grid_of, tensors) if grid is not None]
    if len(grids) < len(tensors) or any(None in t.shape[1:] for t in tensors):
        return None

    def run(*fresh: Any) -> Any:
        given = iter(fresh)
        args, kwargs = tree.pack_sequence_as(
            (call.args, call.kwargs), [next(given) if isinstance(a, keras.KerasTensor) else a for a in flat]
        )
        return call.operation(*args, **kwargs)

    try:
        file = Graph(float_model(trace(run, tensors, "function")))
    except ConversionError:
        return None  # The whole model's conversion says why.
    known = {number: Grid(grid.scale, grid.zero_point, bits) for number, grid in zip(file.inputs, grids, strict=True)}
    spread_grids(file, known)
    found = known.get(file.outputs[0]) if len(file.outputs) == 1 else None
    return None if found is None else FixedGrid(found.scale, found.zero_point, found.bits)
