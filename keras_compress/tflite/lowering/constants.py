"""Integer forms of constants: weights, biases, and operands of element-wise operators."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.grids import ConstantGrid, Grid
from keras_compress.tflite.lowering.rule import Lowering

# LiteRT's built-in ADD and MUL, which XNNPACK leaves factors from 256 on to, count in 16 bits before they clip: 255
# steps of the inputs may be this many times as many of the output.
LARGEST_FACTOR = 128.0


def weight_grid(state: Lowering, op: Any, operand: int) -> ConstantGrid:
    """The integers of a weight operand.

    Raises:
        ValueError: They are not known.
    """
    tensor = op.inputs[operand]
    grid = state.weights.get(tensor)
    if grid is None:
        raise ValueError(
            f"Expected the weights of {state.label(op)} to be those of a layer, not what a `call` computes from "
            "them (weight standardization, say; put the result into a plain layer before converting). "
            f"Received: no integers for tensor {state.graph.name(tensor)!r}, shape {state.graph.shape(tensor)}"
        )
    return grid


def store_weight(state: Lowering, op: Any, operand: int, dimension: int) -> NDArray[np.float32]:
    """Replace a float weight by its integers; returns its scales, `(1,)` or `(channels,)`.

    Args:
        dimension: Axis of the stored tensor that per-channel scales run along.
    """
    graph, tensor = state.graph, op.inputs[operand]
    grid = weight_grid(state, op, operand)
    shape, scale = graph.shape(tensor), grid.scale.astype(np.float32, copy=False).reshape(-1)
    if scale.size not in (1, shape[dimension]):
        raise ValueError(
            f"Expected 1 or {shape[dimension]} scales for {grid.name!r}, stored as {shape}. "
            f"Received: {scale.size} scales"
        )
    key = ("weight", tensor, dimension)
    if key not in state.constants:
        stored = _add_named(graph, tensor, grid.name, grid.values.astype(np.int8, copy=False).reshape(shape))
        graph.set_quantization(stored, scale, 0, dimension)
        state.constants[key] = stored
        if grid.storage_bits < 8:
            state.packed[stored] = grid.storage_bits
    op.inputs[operand] = state.constants[key]
    return scale


def _add_named(graph: Graph, tensor: int, name: str, integers: NDArray[Any]) -> int:
    """A constant with the name of the float one that it stands for."""
    if graph.name(tensor) == name:
        graph.rename(tensor, f"{name}/float32")
    return graph.add_constant(name, integers)


def store_bias(
    state: Lowering, op: Any, operand: int, input_grid: Grid, weight_scale: NDArray[np.float32], channels: int
) -> None:
    """Replace a float bias by `round(b / (s_in * s_w))`: int32, or int64 beside 16-bit activations.

    A splat (one value for all channels) is written out first: each channel has a scale of its own.

    Raises:
        ValueError: A bias does not fit.
    """
    if operand >= len(op.inputs) or op.inputs[operand] < 0:
        return
    graph = state.graph
    values = graph.constant(op.inputs[operand])
    if values is None:
        raise ValueError(f"Expected a constant bias. Received: a computed one at {state.label(op)}")
    scale = np.float64(input_grid.scale) * weight_scale.astype(np.float64)
    integers = np.rint(np.broadcast_to(values.reshape(-1).astype(np.float64), (channels,)) / scale)
    dtype, limit = ("int32", 2.0**31) if input_grid.bits == 8 else ("int64", 2.0**47)
    if not np.all(np.abs(integers) < limit):
        worst = int(np.argmax(np.abs(integers)))
        raise ValueError(
            f"Expected biases within {dtype} of {state.label(op)}: |bias / (s_in * s_w)| < {limit:.0f}. "
            f"Received: {integers[worst]:.0f} in channel {worst}"
        )
    key = "bias", integers.astype(dtype).tobytes(), scale.tobytes()
    if key not in state.constants:
        state.constants[key] = graph.add_constant(f"{graph.name(op.outputs[0])}/bias", integers.astype(dtype))
        graph.set_quantization(state.constants[key], scale.astype(np.float32), 0, 0)
    op.inputs[operand] = state.constants[key]


def constant_on_grid(state: Lowering, tensor: int, grid: Grid) -> int:
    """An integer copy of a float constant on a given grid."""
    graph = state.graph
    key = ("on grid", tensor, grid)
    if key not in state.constants:
        values = graph.constant(tensor)
        if values is None:
            raise ValueError(f"Expected a constant. Received: computed tensor {graph.name(tensor)!r}")
        stored = graph.add_constant(f"{graph.name(tensor)}/{grid.dtype}", grid.quantize(values))
        grid.put_on(graph, stored)
        state.constants[key] = stored
    return state.constants[key]


def grid_of_constant(values: NDArray[np.float32], bits: int) -> Grid:
    """Grid of a constant operand: its range with zero in it; 16 bits are symmetric.

    A constant with one distinct value is exact up to the float32 scale.
    """
    lowest, highest = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if lowest == highest:
        return Grid(1.0, 0, bits)
    if bits == 16:
        return Grid(float(np.float32(max(-lowest, highest) / 32767)), 0, 16)
    scale = float(np.float32((highest - lowest) / 255))
    return Grid(scale, int(np.clip(np.rint(-128 - lowest / scale), -128, 127)))


def quantize_operand(state: Lowering, op: Any, operand: int, bits: int) -> int:
    """Integer copy of a constant operand: those that are known, else per tensor, 8-bit."""
    graph, tensor = state.graph, op.inputs[operand]
    values = graph.constant(tensor)
    planned = state.weights.get(tensor)
    if planned is not None and planned.scale.size == 1:
        integers = planned.values.astype(np.int16 if bits == 16 else np.int8, copy=False)
        stored = _add_named(graph, tensor, planned.name, integers.reshape(graph.shape(tensor)))
        graph.set_quantization(stored, planned.scale)
        return stored
    if values is None:
        raise ValueError(f"Expected a constant. Received: computed tensor {graph.name(tensor)!r}")
    grid = grid_of_constant(values, bits)
    state.notes.append(
        f"{state.label(op)}: constant operand {graph.name(tensor)!r} stored on scale {grid.scale:.6g}, "
        f"zero point {grid.zero_point}"
    )
    return constant_on_grid(state, tensor, grid)


def one(state: Lowering) -> int:
    """The constant 1 as an int8 tensor: a product with it moves integers to another grid."""
    if ("one",) not in state.constants:
        made = state.graph.add_constant("one", np.ones((1,), np.int8))
        state.graph.set_quantization(made, np.ones((1,), np.float32))
        state.constants["one",] = made
    return state.constants["one",]
