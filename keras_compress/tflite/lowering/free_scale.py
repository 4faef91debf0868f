"""Operators that take any grids and write on any grid; constant operands are quantized per tensor."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.grids import Grid
from keras_compress.tflite.lowering.constants import LARGEST_FACTOR, one, quantize_operand
from keras_compress.tflite.lowering.rule import Lowering, Rule


class Elementwise(Rule):
    """Arithmetic of two tensors, either of which may be constant."""

    handles: ClassVar[tuple[str, ...]] = ("ADD", "SUB", "MUL", "BATCH_MATMUL", "SQUARED_DIFFERENCE")

    def lower(self, state: Lowering, op: Any) -> None:
        bits = state.grids[op.outputs[0]].bits
        for operand, tensor in enumerate(op.inputs):
            values = state.graph.constant(tensor) if tensor >= 0 else None
            if values is not None and values.dtype == np.float32:
                op.inputs[operand] = quantize_operand(state, op, operand, bits)
        if hasattr(op.builtinOptions, "potScaleInt16"):
            # The default asks for power-of-two scales, which 16-bit points do not have.
            op.builtinOptions.potScaleInt16 = False


class ParametricRelu(Elementwise):
    """PRELU: alpha is a constant operand."""

    handles = ("PRELU",)
    bits = (8,)


class Mean(Rule):
    """Means, which rescale."""

    handles = ("MEAN",)


class Sum(Rule):
    """SUM stays float: LiteRT's reference kernel forgets the scales of 8- and 16-bit tensors."""

    handles = ("SUM",)

    def refusal(self, graph: Graph, op: Any, bits: int) -> str | None:
        return "integer SUM differs between runtimes"


class LeakyRelu(Rule):
    """LEAKY_RELU, whose kernel rescales."""

    handles = ("LEAKY_RELU",)


class Relu(Rule):
    """RELU rescales too; without a range of its own the output stays on the input's grid.

    XNNPACK has no int8 kernel for it, and rescales by a coarse factor where it has to. A product with 1 whose fused
    activation is the RELU rounds once, as it should, and is 8 times faster there.
    """

    handles = ("RELU",)

    def infer_output(self, graph: Graph, op: Any, inputs: list[Grid]) -> Grid | None:
        return inputs[0] if inputs else None

    def lower(self, state: Lowering, op: Any) -> None:
        grids = [state.grids[tensor] for tensor in (op.inputs[0], op.outputs[0])]
        if state.target != "litert" or grids[0].bits != 8 or grids[0].scale >= LARGEST_FACTOR * grids[1].scale:
            return
        options = schema.MulOptionsT()
        options.fusedActivationFunction = schema.ActivationFunctionType.RELU
        made = state.graph.make_operator("MUL", [op.inputs[0], one(state)], op.outputs, options)
        vars(op).update(vars(made))


class ByteActivation(Rule):
    """Activations with 8-bit kernels only."""

    handles = ("HARD_SWISH", "ELU", "GELU")
    bits = (8,)


class ByteFunction(Rule):
    """Functions with look-up tables for both widths."""

    handles = ("ABS", "RSQRT", "EXP", "LOG")


class Requantize(Rule):
    """A QUANTIZE between two grids, of a point behind a point."""

    handles = ("QUANTIZE",)
    takes_widths = True
