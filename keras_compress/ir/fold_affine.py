"""Factors and offsets of channels beside weights become weights: what is left of a BatchNormalization in float."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from keras_compress.ir.graph import Graph, Node, Tensor

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class _Weighted:
    """Operands of an operator with weights, and axes of outputs and inputs in its weights."""

    weight: int
    bias: int
    outputs: int
    data: int = 0
    inputs: int | None = None


_WEIGHTED = {
    "CONV_2D": _Weighted(1, 2, 0, inputs=3),
    "DEPTHWISE_CONV_2D": _Weighted(1, 2, 3),
    "FULLY_CONNECTED": _Weighted(1, 2, 0, inputs=1),
    "TRANSPOSE_CONV": _Weighted(1, 3, 0, data=2),
}


def fold_affine(graph: Graph) -> None:
    """Put each MUL or ADD of one number for each channel into the weights before it, or else behind it.

    For graphs without integers. Only where no other operator reads what is between; a RESHAPE that keeps the channels
    may stand there.
    """
    folding = _Folding(graph)
    for number in range(len(graph.nodes)):
        folding.backward(number)
    for number in reversed(range(len(graph.nodes))):
        folding.forward(number)
    graph.nodes = [node for node in folding.nodes if node is not None]


class _Folding:
    """The graph's nodes while some go; None for one that went."""

    def __init__(self, graph: Graph) -> None:
        self.nodes: list[Node | None] = list(graph.nodes)
        self._graph = graph
        self._given = {tensor for _, tensor in graph.outputs}
        self._made: dict[tuple[tuple[int, ...], bytes], str] = {}
        self._makers = {name: n for n, node in enumerate(graph.nodes) for name in node.outputs}
        self._readers: dict[str, list[int]] = {}
        for number, node in enumerate(graph.nodes):
            for name in filter(None, node.inputs):
                self._readers.setdefault(name, []).append(number)

    def backward(self, number: int) -> None:
        """Fold a node into the weights before it."""
        node, vector = self._affine(number)
        if node is None or vector is None:
            return
        maker = self._weighted_before(str(node.inputs[0]))
        if maker is None:
            return
        before = self.nodes[maker]
        if before is not None:
            self.nodes[maker] = self._scaled(before, node.operator, vector)
            self._drop(number, node)

    def forward(self, number: int) -> None:
        """Fold a node into the weights behind it."""
        node, vector = self._affine(number)
        if node is None or vector is None or node.outputs[0] in self._given:
            return
        found = self._readers.get(node.outputs[0], [])
        reader = self.nodes[found[0]] if len(found) == 1 else None
        if reader is None or not self._takes(reader, node):
            return
        self.nodes[found[0]] = self._taking(reader, node.operator, vector)
        self._drop(number, node)

    def _affine(self, number: int) -> tuple[Node | None, Vector | None]:
        """A MUL or ADD, and its constant for each channel, where it has one."""
        node = self.nodes[number]
        if node is None or node.operator not in ("MUL", "ADD") or node.attributes.get("activation", "NONE") != "NONE":
            return None, None
        source, operand = (self._graph.tensors[str(name)] for name in node.inputs)
        made = self._graph.tensors[node.outputs[0]]
        one_row = operand.is_constant and int(np.prod(operand.shape[:-1])) == 1
        if not one_row or made.dtype != "float32" or source.shape != made.shape or source.is_constant:
            return None, None
        return node, np.broadcast_to(operand.array().astype(np.float64).reshape(-1), made.shape[-1:])

    def _weighted_before(self, name: str) -> int | None:
        channels = self._graph.tensors[name].shape[-1:]
        while name in self._makers and name not in self._given and len(self._readers[name]) == 1:
            maker = self._makers[name]
            before = self.nodes[maker]
            if before is None:
                return None
            if before.operator in _WEIGHTED:
                return maker if self._is_plain(before) else None
            name = str(before.inputs[0])
            if before.operator != "RESHAPE" or self._graph.tensors[name].shape[-1:] != channels:
                return None
        return None

    def _is_plain(self, node: Node) -> bool:
        known = self._graph.tensors[str(node.inputs[_WEIGHTED[node.operator].weight])].is_constant
        return known and node.attributes.get("activation", "NONE") == "NONE"

    def _takes(self, reader: Node, node: Node) -> bool:
        """Whether an operator can compute with other weights what it would of a node's output."""
        place = _WEIGHTED.get(reader.operator)
        if place is None or place.inputs is None or reader.inputs[place.data] != node.outputs[0]:
            return False
        weight, channels = self._graph.tensors[str(reader.inputs[place.weight])], self._shape(node)[-1]
        # Zeros around an image stay zeros under a factor, not under an offset.
        padded = node.operator == "ADD" and reader.attributes.get("padding") == "SAME"
        return weight.is_constant and weight.shape[place.inputs] == channels and not padded

    def _shape(self, node: Node) -> tuple[int, ...]:
        return self._graph.tensors[node.outputs[0]].shape

    def _drop(self, number: int, node: Node) -> None:
        """Let those who read what a node made read what it read."""
        self.nodes[number] = None
        old, new = node.outputs[0], str(node.inputs[0])
        self._readers[new] = [n for n in self._readers[new] if n != number] + self._readers.get(old, [])
        for reader in self._readers.get(old, []):
            found = self.nodes[reader]
            if found is not None:
                inputs = tuple(new if name == old else name for name in found.inputs)
                self.nodes[reader] = replace(found, inputs=inputs)
        if old in self._given:
            self._given.add(new)
            self._graph.outputs = [(name, new if t == old else t) for name, t in self._graph.outputs]
        del self._graph.tensors[old]

    def _scaled(self, node: Node, operator: str, vector: Vector) -> Node:
        """An operator whose outputs are multiplied, or added to."""
        place = _WEIGHTED[node.operator]
        weight, bias = self._weight(node), self._bias(node)
        if operator == "ADD":
            return self._with(node, bias=vector if bias is None else bias + vector)
        made = weight * _along(vector, place.outputs, weight.ndim)
        return self._with(node, weight=made, bias=None if bias is None else bias * vector)

    def _taking(self, node: Node, operator: str, vector: Vector) -> Node:
        """An operator whose inputs were multiplied, or added to."""
        place = _WEIGHTED[node.operator]
        weight, bias = self._weight(node), self._bias(node)
        made = weight * _along(vector, place.inputs or 0, weight.ndim)
        if operator == "MUL":
            return self._with(node, weight=made)
        offset = made.sum(tuple(axis for axis in range(made.ndim) if axis != place.outputs))
        return self._with(node, bias=offset if bias is None else bias + offset)

    def _weight(self, node: Node) -> Vector:
        return self._graph.tensors[str(node.inputs[_WEIGHTED[node.operator].weight])].array().astype(np.float64)

    def _bias(self, node: Node) -> Vector | None:
        place = _WEIGHTED[node.operator].bias
        name = node.inputs[place] if place < len(node.inputs) else None
        return None if name is None else self._graph.tensors[name].array().astype(np.float64)

    def _with(self, node: Node, weight: Vector | None = None, bias: Vector | None = None) -> Node:
        place = _WEIGHTED[node.operator]
        inputs = [*node.inputs, *[None] * (place.bias + 1 - len(node.inputs))]
        if weight is not None:
            inputs[place.weight] = self._constant(str(inputs[place.weight]), weight)
        if bias is not None:
            inputs[place.bias] = self._constant(str(inputs[place.bias] or f"{node.path}/bias"), bias)
        while inputs[-1] is None:
            inputs.pop()
        return replace(node, inputs=tuple(inputs))

    def _constant(self, name: str, values: Vector) -> str:
        stored = np.ascontiguousarray(values, np.float32)
        key = stored.shape, stored.tobytes()
        if key not in self._made:
            number, free = 0, name
            while free in self._graph.tensors:
                number += 1
                free = f"{name}_{number}"
            self._graph.tensors[free] = Tensor(free, stored.shape, "float32", values=stored)
            self._made[key] = free
        return self._made[key]


def _along(vector: Vector, axis: int, rank: int) -> Vector:
    return vector.reshape([-1 if a == axis else 1 for a in range(rank)])
