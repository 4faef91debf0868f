"""A bias that the converter adds behind a RESHAPE, put back into the FULLY_CONNECTED before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_compress.convert.flatbuffer import Graph
from keras_compress.convert.lowering.grid import Grid


def bias_of_rows(graph: Graph, grids: Mapping[int, Grid]) -> None:
    """Rewrite FULLY_CONNECTED -> RESHAPE -> ADD of a vector, which a Dense layer on five dimensions becomes.

    The sum would need a range between product and bias, which no point gives.
    """
    producers, consumers = graph.producers(), graph.consumers()
    fused: set[int] = set()
    for op in graph.operators:
        found = _pattern(graph, op, producers)
        if found is None:
            continue
        product, reshape, bias = found
        between = (product.outputs[0], reshape.outputs[0])
        if any(t in grids or t in graph.outputs or len(consumers.get(t, [])) != 1 for t in between):
            continue
        values = np.broadcast_to(graph.constant(bias).reshape(-1), graph.shape(product.outputs[0])[-1:])  # type: ignore[union-attr]
        stored = graph.add_constant(f"{graph.name(product.outputs[0])}/bias", np.ascontiguousarray(values))
        product.inputs = [*product.inputs[:2], stored]
        product.builtinOptions.fusedActivationFunction = op.builtinOptions.fusedActivationFunction
        reshape.outputs = list(op.outputs)
        fused.add(id(op))
    graph.operators = [op for op in graph.operators if id(op) not in fused]


def _pattern(graph: Graph, op: Any, producers: Mapping[int, Any]) -> tuple[Any, Any, int] | None:
    """FULLY_CONNECTED, RESHAPE, and the bias, where `op` is the ADD behind them."""
    if graph.kind(op) != "ADD":
        return None
    bias = next((t for t in op.inputs if graph.is_constant(t)), None)
    reshape = next((producers[t] for t in op.inputs if t in producers and graph.kind(producers[t]) == "RESHAPE"), None)
    product = producers.get(reshape.inputs[0]) if reshape is not None else None
    if bias is None or reshape is None or product is None or graph.kind(product) != "FULLY_CONNECTED":
        return None
    channels = graph.shape(product.outputs[0])[-1]
    plain = product.builtinOptions.fusedActivationFunction == 0 and (len(product.inputs) < 3 or product.inputs[2] < 0)
    whole = graph.shape(reshape.outputs[0])[-1:] == (channels,) and graph.shape(bias)[-1:] == (channels,)
    return (product, reshape, bias) if plain and whole and np.prod(graph.shape(bias)) == channels else None
