"""A bias that the converter adds behind operators that move rows about, put back into the product before them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_compress.convert.flatbuffer import Graph
from keras_compress.convert.lowering.grid import Grid

_PRODUCTS = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")
_MOVES = ("RESHAPE", "BATCH_TO_SPACE_ND")


def bias_of_rows(graph: Graph, grids: Mapping[int, Grid]) -> None:
    """Rewrite product -> RESHAPE, BATCH_TO_SPACE_ND -> ADD of a vector.

    A Dense layer on five dimensions becomes that, and two dilated convolutions of one input, which share their
    SPACE_TO_BATCH_ND (the gate of a WaveNet). The sum would need a range between product and bias, which no point
    gives.
    """
    producers, consumers = graph.producers(), graph.consumers()
    fused: set[int] = set()
    for op in graph.operators:
        found = _pattern(graph, op, producers)
        if found is None:
            continue
        product, moves, bias = found
        between = [each.outputs[0] for each in (product, *moves)]
        if any(t in grids or t in graph.outputs or len(consumers.get(t, [])) != 1 for t in between):
            continue
        values = np.broadcast_to(graph.constant(bias).reshape(-1), graph.shape(product.outputs[0])[-1:])  # type: ignore[union-attr]
        stored = graph.add_constant(f"{graph.name(product.outputs[0])}/bias", np.ascontiguousarray(values))
        product.inputs = [*product.inputs[:2], stored]
        product.builtinOptions.fusedActivationFunction = op.builtinOptions.fusedActivationFunction
        moves[-1].outputs = list(op.outputs)
        fused.add(id(op))
    graph.operators = [op for op in graph.operators if id(op) not in fused]


def _pattern(graph: Graph, op: Any, producers: Mapping[int, Any]) -> tuple[Any, list[Any], int] | None:
    """The product, what moves its rows, and the bias, where `op` is the ADD behind them."""
    if graph.kind(op) != "ADD":
        return None
    bias = next((t for t in op.inputs if graph.is_constant(t)), None)
    product = next((producers[t] for t in op.inputs if t in producers), None)
    moves: list[Any] = []
    while product is not None and graph.kind(product) in _MOVES:
        moves.insert(0, product)
        product = producers.get(product.inputs[0])
    if bias is None or not moves or product is None or graph.kind(product) not in _PRODUCTS:
        return None
    channels = graph.shape(product.outputs[0])[-1]
    plain = product.builtinOptions.fusedActivationFunction == 0 and _without_bias(graph, product)
    whole = all(graph.shape(t)[-1:] == (channels,) for t in (bias, *(move.outputs[0] for move in moves)))
    return (product, moves, bias) if plain and whole and np.prod(graph.shape(bias)) == channels else None


def _without_bias(graph: Graph, product: Any) -> bool:
    """Whether there is none, or one of zeros, which convolutions have in any case."""
    bias = product.inputs[2] if len(product.inputs) > 2 else -1
    values = graph.constant(bias) if bias >= 0 else None
    return bias < 0 or (values is not None and not values.any())
