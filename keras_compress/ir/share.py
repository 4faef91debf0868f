"""What is computed twice from the same tensors is computed once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from keras_compress.ir.graph import Graph, Node


def share_equal_nodes(graph: Graph) -> None:
    """Let readers of a node that another one equals read the other's outputs; grids and names must be the same."""
    renamed: dict[str, str] = {}
    first: dict[tuple[Any, ...], Node] = {}
    held = {tensor for _, tensor in graph.outputs}
    kept: list[Node] = []
    for node in graph.nodes:
        inputs = tuple(None if name is None else renamed.get(name, name) for name in node.inputs)
        node = replace(node, inputs=inputs)
        key = (node.operator, inputs, tuple(sorted(node.attributes.items())))
        other = first.setdefault(key, node)
        if other is node or held & set(node.outputs) or not _alike(graph, node, other):
            kept.append(node)
            continue
        for mine, theirs in zip(node.outputs, other.outputs, strict=True):
            renamed[mine] = theirs
            del graph.tensors[mine]
    graph.nodes = kept
    graph.points = [replace(point, tensor=renamed.get(point.tensor, point.tensor)) for point in graph.points]


def _alike(graph: Graph, node: Node, other: Node) -> bool:
    """Whether no integers stand at one of the two, or the same at both."""
    pairs = [(graph.tensors[a], graph.tensors[b]) for a, b in zip(node.outputs, other.outputs, strict=True)]
    return all(a.grid == b.grid and a.dtype == b.dtype for a, b in pairs)
