"""Operators that move or compare integers: one grid for what goes in and what comes out."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.grids import Grid
from keras_compress.tflite.lowering.constants import constant_on_grid, store_weight
from keras_compress.tflite.lowering.rule import Lowering, Rule


class SameScale(Rule):
    """One data input: its grid rules; an output wanted on another grid is requantized afterwards."""

    handles: ClassVar[tuple[str, ...]] = (
        "MAX_POOL_2D", "AVERAGE_POOL_2D", "RESHAPE", "PAD", "MIRROR_PAD", "TRANSPOSE", "SLICE",
        "STRIDED_SLICE", "SPLIT", "SPLIT_V", "SQUEEZE", "EXPAND_DIMS", "RESIZE_NEAREST_NEIGHBOR",
        "RESIZE_BILINEAR", "UNPACK", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND",
        "TILE", "BROADCAST_TO", "REVERSE_V2", "REDUCE_MAX", "REDUCE_MIN",
    )  # fmt: skip
    takes_widths = True

    def infer_output(self, graph: Graph, op: Any, inputs: list[Grid]) -> Grid | None:
        return inputs[0] if len(inputs) == len(graph.float_inputs(op)) == 1 else None

    def infer_input(self, graph: Graph, op: Any, output: Grid) -> Grid | None:
        return output

    def output_grid(self, state: Lowering, op: Any, inputs: list[Grid], outputs: list[Grid]) -> Grid | None:
        return inputs[0]


class SameScaleByte(SameScale):
    """The same where only 8-bit kernels exist."""

    handles = ("SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "ARG_MAX", "ARG_MIN")
    bits = (8,)


class Clamp(SameScale):
    """A clamp ends at a whole step, so that it has to be one of the output's: what goes in is requantized first."""

    handles: ClassVar[tuple[str, ...]] = ("RELU6",)

    def input_grid(self, op: Any, tensor: int, inputs: list[Grid], outputs: list[Grid]) -> Grid | None:
        return outputs[0]

    def output_grid(self, state: Lowering, op: Any, inputs: list[Grid], outputs: list[Grid]) -> Grid | None:
        return None


class ClampByte(Clamp):
    """The same where only 8-bit kernels exist."""

    handles = ("RELU_N1_TO_1", "RELU_0_TO_1")
    bits = (8,)


class Lookup(SameScale):
    """Gathering; a constant table (an embedding) brings its own grid, or takes the output's."""

    handles = ("GATHER", "GATHER_ND")

    def output_grid(self, state: Lowering, op: Any, inputs: list[Grid], outputs: list[Grid]) -> Grid | None:
        return inputs[0] if inputs else _table_grid(state, op, outputs[0])

    def lower(self, state: Lowering, op: Any) -> None:
        if _has_known_table(state, op):
            store_weight(state, op, 0, 0)
        elif state.graph.is_constant(op.inputs[0]):
            op.inputs[0] = constant_on_grid(state, op.inputs[0], state.grids[op.outputs[0]])


def _has_known_table(state: Lowering, op: Any) -> bool:
    planned = state.weights.get(op.inputs[0])
    return planned is not None and planned.scale.size == 1


def _table_grid(state: Lowering, op: Any, wanted: Grid) -> Grid:
    return Grid(state.weights[op.inputs[0]].scale.item(), 0) if _has_known_table(state, op) else wanted


class PadValue(SameScale):
    """PADV2: the padding value becomes an integer of the data's grid."""

    handles: ClassVar[tuple[str, ...]] = ("PADV2",)

    def lower(self, state: Lowering, op: Any) -> None:
        op.inputs[2] = constant_on_grid(state, op.inputs[2], state.grids[op.inputs[0]])


class IndexOfTable(Rule):
    """CAST of the integers of an int8 tensor, which the operator says it reads: the index of a table.

    One of the real numbers that they stand for, such as a user's `keras.ops.cast`, stays float.
    """

    handles: ClassVar[tuple[str, ...]] = ("CAST",)
    bits = (8,)

    def refusal(self, graph: Graph, op: Any, bits: int) -> str | None:
        options = op.builtinOptions
        to_index = options is not None and options.inDataType == schema.TensorType.INT8
        return super().refusal(graph, op, bits) if to_index else "CAST is of real numbers"


class Joined(Rule):
    """Several data inputs on the output's grid: inputs on another one are requantized first."""

    handles: ClassVar[tuple[str, ...]] = (
        "CONCATENATION",
        "PACK",
        "MAXIMUM",
        "MINIMUM",
        "SELECT_V2",
        "SELECT",
    )
    takes_widths = True

    def infer_output(self, graph: Graph, op: Any, inputs: list[Grid]) -> Grid | None:
        agreed = len(inputs) == len(graph.float_inputs(op)) and len(set(inputs)) == 1
        return inputs[0] if agreed else None

    def infer_input(self, graph: Graph, op: Any, output: Grid) -> Grid | None:
        return output

    def input_grid(self, op: Any, tensor: int, inputs: list[Grid], outputs: list[Grid]) -> Grid | None:
        return outputs[0]

    def lower(self, state: Lowering, op: Any) -> None:
        grid = state.grids[op.outputs[0]]
        op.inputs = [
            constant_on_grid(state, tensor, grid) if _is_float_constant(state.graph, tensor) else tensor
            for tensor in op.inputs
        ]


def _is_float_constant(graph: Graph, tensor: int) -> bool:
    values = graph.constant(tensor) if tensor >= 0 else None
    return values is not None and values.dtype == np.float32
