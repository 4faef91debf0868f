"""Dynamic range: int8 weights, float32 activations that the kernels quantize as they go."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_compress.tflite.lowering.constants import store_weight
from keras_compress.tflite.lowering.rule import Lowering, rule_of
from keras_compress.tflite.lowering.weighted import Weighted

_HYBRID_KERNELS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def store_hybrid(state: Lowering) -> list[tuple[str, str, str]]:
    """Store the integers of weights; operators without a hybrid kernel read them through a DEQUANTIZE.

    Returns:
        (kind, tensor, reason) of each weighted operator that keeps float32 weights or arithmetic.
    """
    graph = state.graph
    left: list[tuple[str, str, str]] = []
    operators: list[Any] = []
    widened: dict[int, int] = {}
    for op in graph.operators:
        kind, rule = graph.kind(op), rule_of(graph.kind(op))
        if isinstance(rule, Weighted) and graph.is_constant(op.inputs[rule.weight]):
            if state.weights.get(op.inputs[rule.weight]) is None:
                left.append((kind, graph.name(op.outputs[0]), "no integers are known for its weights"))
            else:
                scale = store_weight(state, op, rule.weight, rule.channel_axis)
                if kind == "DEPTHWISE_CONV_2D":
                    # The hybrid kernel reads a scale for each channel, whether there is one or not.
                    weight = op.inputs[rule.weight]
                    each = np.broadcast_to(scale, (graph.shape(weight)[rule.channel_axis],))
                    graph.set_quantization(weight, each, 0, rule.channel_axis)
                if kind not in _HYBRID_KERNELS:
                    op.inputs[rule.weight] = _widen(state, op.inputs[rule.weight], widened, operators)
                    left.append((kind, graph.name(op.outputs[0]), f"{kind} has no hybrid kernel"))
                elif kind == "FULLY_CONNECTED":
                    op.builtinOptions.asymmetricQuantizeInputs = True
        if kind in ("WHILE", "IF"):
            left.append((kind, graph.name(op.outputs[0]), f"the body of {kind} is not looked into"))
        if kind == "GATHER" and (moved := _gather_integers(state, op)) is not None:
            operators += [op, moved]
            continue
        operators.append(op)
    graph.operators = operators
    return left


def _gather_integers(state: Lowering, op: Any) -> Any | None:
    """An embedding's rows are looked up as integers; returns the DEQUANTIZE that follows."""
    planned = state.weights.get(op.inputs[0])
    if planned is None or planned.scale.size > 1:
        return None
    graph, rows = state.graph, op.outputs[0]
    store_weight(state, op, 0, 0)
    picked = graph.add_tensor(f"{graph.name(rows)}/int8", graph.shape(rows), "int8")
    graph.set_quantization(picked, planned.scale)
    op.outputs = [picked]
    return graph.make_operator("DEQUANTIZE", [picked], [rows], schema.DequantizeOptionsT())


def _widen(state: Lowering, stored: int, widened: dict[int, int], operators: list[Any]) -> int:
    if stored not in widened:
        graph = state.graph
        wide = graph.add_tensor(f"{graph.name(stored)}/float32", graph.shape(stored), "float32")
        operators.append(graph.make_operator("DEQUANTIZE", [stored], [wide], schema.DequantizeOptionsT()))
        widened[stored] = wide
    return widened[stored]
