"""The operators between two grids, and around what stays float."""

from __future__ import annotations

from typing import Any

from ai_edge_litert import schema_py_generated as schema

from keras_compress.tflite.grids import Grid
from keras_compress.tflite.lowering.constants import LARGEST_FACTOR, one
from keras_compress.tflite.lowering.rule import Lowering


class Boundaries:
    """Places operators one after the other, with the conversions that their tensors need.

    Attributes:
        operators: What has been placed so far, in an order that can be executed.
    """

    def __init__(self, state: Lowering) -> None:
        self.operators: list[Any] = []
        self._state = state
        self._requantized: dict[tuple[int, Grid], int] = {}
        self._float: dict[int, int] = {}

    def requantized(self, tensor: int, grid: Grid, reader: Any) -> int:
        """`tensor` on `grid`: itself, or a copy that an explicit QUANTIZE makes once for all readers."""
        state = self._state
        if state.grids[tensor] == grid:
            return tensor
        if (tensor, grid) not in self._requantized:
            name = f"{state.graph.name(tensor)}/requantized"
            copy = state.graph.add_tensor(name, state.graph.shape(tensor), "float32")
            self._quantize(tensor, copy, grid)
            self._requantized[tensor, grid] = copy
            state.notes.append(
                f"{state.label(reader)}: input {state.graph.name(tensor)!r} requantized to scale {grid.scale:.6g}"
            )
        return self._requantized[tensor, grid]

    def move(self, source: int, target: int) -> None:
        """Place the operator that puts the integers of `source` on the grid of `target`."""
        self._quantize(source, target, self._state.grids[target])

    def place(self, op: Any, written: Grid | None) -> None:
        """Place an integer operator; when its kernel writes on `written`, outputs wanted elsewhere move."""
        state, moves = self._state, []
        for number, tensor in enumerate(op.outputs):
            wanted = state.grids.get(tensor)
            if written is not None and wanted is not None and wanted != written:
                name = f"{state.graph.name(tensor)}/unscaled"
                inner = state.graph.add_tensor(name, state.graph.shape(tensor), "float32")
                state.grids[inner] = written
                op.outputs[number] = inner
                moves.append((inner, tensor, wanted))
                state.notes.append(
                    f"{state.graph.kind(op)}: output {state.graph.name(tensor)!r} requantized from scale "
                    f"{written.scale:.6g} to {wanted.scale:.6g}"
                )
        self.operators.append(op)
        for inner, tensor, wanted in moves:
            self._quantize(inner, tensor, wanted)

    def place_island(self, op: Any) -> None:
        """Place a float operator: its integer inputs are dequantized, its marked outputs quantized."""
        state = self._state
        op.inputs = [self._as_float(t) if t in state.grids else t for t in op.inputs]
        moves = []
        for number, tensor in enumerate(op.outputs):
            if tensor in state.grids:
                name = f"{state.graph.name(tensor)}/float"
                op.outputs[number] = state.graph.add_tensor(name, state.graph.shape(tensor), "float32")
                moves.append((op.outputs[number], tensor, state.grids[tensor]))
        self.operators.append(op)
        for inner, tensor, grid in moves:
            self._quantize(inner, tensor, grid)

    def _as_float(self, tensor: int) -> int:
        if tensor not in self._float:
            graph = self._state.graph
            copy = graph.add_tensor(f"{graph.name(tensor)}/float", graph.shape(tensor), "float32")
            options = schema.DequantizeOptionsT()
            self.operators.append(graph.make_operator("DEQUANTIZE", [tensor], [copy], options))
            self._float[tensor] = copy
        return self._float[tensor]

    def _quantize(self, source: int, target: int, grid: Grid) -> None:
        state, graph = self._state, self._state.graph
        state.grids[target] = grid
        before = state.grids.get(source)
        bytewise = before is not None and before.bits == grid.bits == 8
        if state.target == "litert" and before is not None and bytewise and before.scale < LARGEST_FACTOR * grid.scale:
            # XNNPACK's int8-to-int8 QUANTIZE multiplies by a coarse factor; its MUL does not. By large factors it is
            # the other way round: XNNPACK leaves both to the built-in kernels, whose products do not fit 16 bits.
            self.operators.append(graph.make_operator("MUL", [source, one(state)], [target], schema.MulOptionsT()))
            return
        self.operators.append(graph.make_operator("QUANTIZE", [source], [target], schema.QuantizeOptionsT()))
