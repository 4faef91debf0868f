"""Factors and offsets of channels behind weights become weights: what is left of a BatchNormalization in float."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from keras_compress.ir.graph import Graph, Node, Tensor

# Operator -> operands of its weights and its bias, axis of the outputs in the weights.
_WEIGHTED = {
    "CONV_2D": (1, 2, 0),
    "DEPTHWISE_CONV_2D": (1, 2, 3),
    "FULLY_CONNECTED": (1, 2, 0),
    "TRANSPOSE_CONV": (1, 3, 0),
}


def fold_affine(graph: Graph) -> None:
    """Put a MUL or ADD of one number for each channel into the weights or the bias before it, if it alone reads them.

    For graphs without integers. A RESHAPE that keeps the channels may stand between.
    """
    readers = graph.readers()
    given = {tensor for _, tensor in graph.outputs}
    makers: dict[str, int] = {}
    renamed: dict[str, str] = {}
    kept: list[Node] = []
    for node in graph.nodes:
        node = replace(node, inputs=tuple(None if name is None else renamed.get(name, name) for name in node.inputs))
        place = _maker(graph, kept, makers, node, given)
        if place is not None:
            kept[place] = _folded(graph, kept[place], node)
            renamed[node.outputs[0]] = str(node.inputs[0])
            readers[str(node.inputs[0])] = readers.get(node.outputs[0], [])
            given |= {str(node.inputs[0])} if node.outputs[0] in given else set()
            del graph.tensors[node.outputs[0]]
            continue
        for name in node.outputs:
            # A tensor with other readers would change for them too.
            if len(readers.get(name, [])) == 1:
                makers[name] = len(kept)
        kept.append(node)
    graph.nodes = kept
    graph.outputs = [(name, renamed.get(tensor, tensor)) for name, tensor in graph.outputs]


def _maker(graph: Graph, kept: list[Node], makers: dict[str, int], node: Node, given: set[str]) -> int | None:
    """Place of the operator whose weights take in a node, if there is one."""
    if node.operator not in ("MUL", "ADD") or node.attributes.get("activation", "NONE") != "NONE":
        return None
    source, made = (graph.tensors[str(name)] for name in (node.inputs[0], node.outputs[0]))
    if _vector(graph, node) is None or source.shape != made.shape:
        return None
    name = source.name
    while name in makers and name not in given:
        before = kept[makers[name]]
        if before.operator in _WEIGHTED:
            plain = before.attributes.get("activation", "NONE") == "NONE"
            constant = graph.tensors[str(before.inputs[_WEIGHTED[before.operator][0]])].is_constant
            return makers[name] if plain and constant else None
        name = str(before.inputs[0])
        if before.operator != "RESHAPE" or graph.tensors[name].shape[-1:] != source.shape[-1:]:
            return None
    return None


def _vector(graph: Graph, node: Node) -> NDArray[np.float64] | None:
    """The second operand of a node, where it is one constant for each channel, or for all."""
    operand, channels = graph.tensors[str(node.inputs[1])], graph.tensors[node.outputs[0]].shape[-1]
    if not operand.is_constant or operand.dtype != "float32" or int(np.prod(operand.shape[:-1])) != 1:
        return None
    return np.broadcast_to(operand.array().astype(np.float64).reshape(-1), (channels,))


def _folded(graph: Graph, maker: Node, node: Node) -> Node:
    vector = _vector(graph, node)
    if vector is None:
        raise ValueError(f"Expected a constant for each channel. Received: a computed one at {node.path!r}")
    weight, bias, axis = _WEIGHTED[maker.operator]
    inputs = [*maker.inputs, *[None] * (bias + 1 - len(maker.inputs))]
    before = np.zeros_like(vector) if inputs[bias] is None else graph.tensors[str(inputs[bias])].array()
    if node.operator == "MUL":
        values = graph.tensors[str(inputs[weight])].array().astype(np.float64)
        shape = [-1 if a == axis else 1 for a in range(values.ndim)]
        inputs[weight] = _constant(graph, f"{node.path}/weights", values * vector.reshape(shape))
    made = before * vector if node.operator == "MUL" else before + vector
    if node.operator == "ADD" or inputs[bias] is not None:
        inputs[bias] = _constant(graph, f"{node.path}/bias", made)
    while inputs[-1] is None:
        inputs.pop()
    return replace(maker, inputs=tuple(inputs))


def _constant(graph: Graph, name: str, values: NDArray[np.float64]) -> str:
    number, free = 0, name
    while free in graph.tensors:
        number += 1
        free = f"{name}_{number}"
    graph.tensors[free] = Tensor(free, values.shape, "float32", values=np.ascontiguousarray(values, np.float32))
    return free
