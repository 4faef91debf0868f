"""Spreads the grids of marked tensors through operators that keep or fix the scale."""

from __future__ import annotations

from typing import Any

from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.grids import Grid
from keras_compress.tflite.lowering.rule import rule_of


def spread_grids(graph: Graph, grids: dict[int, Grid]) -> None:
    """Give a grid to every tensor whose neighbours decide it; `grids` grows in place.

    Forward first (a pooled tensor lives where its input lives), then backward (a convolution in front of
    an unmarked pooling writes on the pooling's grid), until nothing changes. A tensor whose readers want
    different grids keeps none.
    """
    consumers = graph.consumers()
    changed = True
    while changed:
        changed = False
        for op in graph.operators:
            changed |= _forward(graph, op, grids)
        for op in reversed(graph.operators):
            changed |= _backward(graph, op, grids, consumers)


def _known(grids: dict[int, Grid], tensors: list[int]) -> list[Grid]:
    return [grids[t] for t in tensors if t in grids]


def _forward(graph: Graph, op: Any, grids: dict[int, Grid]) -> bool:
    rule = rule_of(graph.kind(op))
    open_outputs = [t for t in graph.float_outputs(op) if t not in grids]
    if rule is None or not open_outputs:
        return False
    grid = rule.infer_output(graph, op, _known(grids, graph.float_inputs(op)))
    if grid is None:
        return False
    grids.update(dict.fromkeys(open_outputs, grid))
    return True


def _backward(graph: Graph, op: Any, grids: dict[int, Grid], consumers: dict[int, list[Any]]) -> bool:
    wanted = _wanted_input(graph, op, grids)
    if wanted is None:
        return False
    changed = False
    for tensor in graph.float_inputs(op):
        if tensor not in grids and all(
            _wanted_input(graph, reader, grids) in (None, wanted) for reader in consumers[tensor]
        ):
            grids[tensor] = wanted
            changed = True
    return changed


def _wanted_input(graph: Graph, op: Any, grids: dict[int, Grid]) -> Grid | None:
    """Grid that `op` would like its undecided inputs on, when all its outputs agree on one."""
    rule = rule_of(graph.kind(op))
    outputs = set(_known(grids, graph.float_outputs(op)))
    if rule is None or len(outputs) != 1:
        return None
    return rule.infer_input(graph, op, outputs.pop())
