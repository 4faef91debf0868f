"""From a float model, and what is known of its tensors, to an integer flatbuffer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from keras_compress.ir.emit import Emitted
from keras_compress.tflite.flatbuffer import Graph, write_model
from keras_compress.tflite.grids import Grid
from keras_compress.tflite.lowering.boundaries import Boundaries
from keras_compress.tflite.lowering.hybrid import store_hybrid
from keras_compress.tflite.lowering.interface import set_io_types
from keras_compress.tflite.lowering.mean_to_pool import mean_to_pool
from keras_compress.tflite.lowering.ranges import spread_grids
from keras_compress.tflite.lowering.rule import Lowering, Rule, rule_of
from keras_compress.tflite.lowering.support import check_support
from keras_compress.tflite.lowering.versions import set_versions
from keras_compress.tflite.passes.clamp import clamp_points
from keras_compress.tflite.passes.dense_as_convolution import dense_as_convolution
from keras_compress.tflite.passes.float16 import store_float16
from keras_compress.tflite.passes.free_batch import free_batch
from keras_compress.tflite.passes.pack_weights import pack_weights
from keras_compress.tflite.plan import IO_TYPES, MADE_FOR, MODES, LoweringPlan


@dataclass(frozen=True)
class FloatOp:
    """An operator that computes in float32 in the deployed file.

    Attributes:
        op: Kind, such as `"SQUARE"`.
        tensor: Name of its first output.
        reason: Why it is not an integer operator.
    """

    op: str
    tensor: str
    reason: str


@dataclass(frozen=True)
class Lowered:
    """A deployable file and what happened to it.

    Attributes:
        content: The `.tflite` file.
        point_tensors: Name of an activation point -> name of the tensor that holds it.
        float_ops: Operators left in float32, with the reason (for integer and dynamic modes).
        notes: Requantizations and quantized constants that the float model does not have.
        fixed_by: What fixes the number of samples in a file that was to take any.
    """

    content: bytes
    point_tensors: dict[str, str] = field(default_factory=dict)
    float_ops: list[FloatOp] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    fixed_by: str = ""


def lower(emitted: Emitted, plan: LoweringPlan) -> Lowered:
    """Put integers into a float model.

    Args:
        emitted: What `keras_compress.ir.emit.emit` gave, or a float model of which nothing is known, as
            `keras_compress.convert.float_flatbuffer.float_model` gives it. The model is used up.
        plan: Mode, type of inputs and outputs, runtime.

    Raises:
        ValueError: The plan does not fit the model; the message names the operator and the tensor.
    """
    if plan.mode not in MODES or plan.io not in IO_TYPES:
        raise ValueError(f"Expected mode in {MODES}, io in {IO_TYPES}. Received: {plan.mode!r}, {plan.io!r}")
    if plan.mode in ("int8", "16x8"):
        return _lower_integer(emitted, plan)
    if plan.io != "float32":
        raise ValueError(f"Expected io='float32' for mode={plan.mode!r}. Received: io={plan.io!r}")
    graph = Graph(emitted.model)
    state = Lowering(graph, emitted.weights, {})
    left: list[FloatOp] = []
    if plan.mode == "float16":
        state.notes += store_float16(graph)
    elif plan.mode == "dynamic":
        left = [FloatOp(*entry) for entry in store_hybrid(state)]
    return _written(state, plan, {}, left)


def _lower_integer(emitted: Emitted, plan: LoweringPlan) -> Lowered:
    graph, points = Graph(emitted.model), dict(emitted.points)
    state = Lowering(graph, emitted.weights, dict(emitted.grids), target=plan.target, lstms=emitted.lstms)
    mean_to_pool(graph, state.grids)
    spread_grids(graph, state.grids)
    float_ops = _lower_operators(state)
    for tensor, grid in state.grids.items():
        grid.put_on(graph, tensor)
    set_io_types(graph, state.grids, plan.io)
    clamp_points(state, emitted.lowest, points)
    state.notes += dense_as_convolution(graph, state.packed, plan.target)
    pack_weights(graph, state.packed)
    graph.model.description = MADE_FOR[plan.target]
    names = {point: graph.name(tensor) for point, tensor in points.items()}
    return _written(state, plan, names, float_ops)


def _written(state: Lowering, plan: LoweringPlan, points: dict[str, str], float_ops: list[FloatOp]) -> Lowered:
    graph = state.graph
    check_support(graph, plan.target)
    set_versions(graph)
    fixed_by = free_batch(graph) if plan.any_batch else ""
    return Lowered(write_model(graph.model), points, float_ops, state.notes, fixed_by)


def _lower_operators(state: Lowering) -> list[FloatOp]:
    """Each operator becomes an integer one, or an island between DEQUANTIZE and QUANTIZE."""
    graph, boundaries = state.graph, Boundaries(state)
    float_ops: list[FloatOp] = []
    operators, graph.operators = graph.operators, boundaries.operators
    for op in operators:
        reason = _why_float(state, op)
        rule = rule_of(graph.kind(op))
        if not graph.float_inputs(op) and not graph.float_outputs(op):
            boundaries.operators.append(op)  # shapes, indices: no activation in it
        elif reason is None and graph.kind(op) == "QUANTIZE":
            boundaries.move(op.inputs[0], op.outputs[0])  # a point behind a point
        elif reason is None and rule is not None:
            _lower_operator(state, boundaries, op, rule)
        else:
            name = graph.name(op.outputs[0]) if op.outputs else ""
            float_ops.append(FloatOp(graph.kind(op), name, reason or ""))
            boundaries.place_island(op)
    return float_ops


def _why_float(state: Lowering, op: Any) -> str | None:
    graph, rule = state.graph, rule_of(state.graph.kind(op))
    if rule is None:
        return f"no integer form of {graph.kind(op)} is known"
    tensors = [*graph.float_inputs(op), *graph.float_outputs(op)]
    without = [graph.name(t) for t in tensors if t not in state.grids]
    if without:
        return f"no activation range for {', '.join(map(repr, without))}"
    widths = {state.grids[t].bits for t in tensors}
    if len(widths) > 1 and not rule.takes_widths:
        return "its tensors mix 8 and 16 bits"
    if not tensors:
        return None
    return rule.refusal(graph, op, state.grids[tensors[0]].bits if rule.takes_widths else max(widths))


def _lower_operator(state: Lowering, boundaries: Boundaries, op: Any, rule: Rule) -> None:
    graph = state.graph
    inputs = [state.grids[t] for t in graph.float_inputs(op)]
    outputs = [state.grids[t] for t in graph.float_outputs(op)]
    arriving = {t: rule.input_grid(op, t, inputs, outputs) for t in graph.float_inputs(op)}
    op.inputs = [_arrive(boundaries, t, arriving.get(t), graph, op) for t in op.inputs]
    written = rule.output_grid(state, op, inputs, outputs)
    rule.lower(state, op)
    boundaries.place(op, written)


def _arrive(boundaries: Boundaries, tensor: int, grid: Grid | None, graph: Graph, op: Any) -> int:
    return tensor if grid is None else boundaries.requantized(tensor, grid, op)
