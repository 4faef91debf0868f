"""Reshapes that are not needed: of a reshape, and in front of a product of rows."""

from __future__ import annotations

from dataclasses import replace

from keras_compress.ir.graph import Graph, Node


def merge_reshapes(graph: Graph) -> None:
    """Let a RESHAPE read what the RESHAPE before it reads, where nothing else is known of the tensor between them."""
    held = {tensor for _, tensor in graph.outputs} | {point.tensor for point in graph.points}
    before: dict[str, Node] = {}
    same: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        node = replace(node, inputs=tuple(None if name is None else same.get(name, name) for name in node.inputs))
        if node.operator == "RESHAPE":
            source = str(node.inputs[0])
            if source in before and source not in held and graph.tensors[source].grid is None:
                node = replace(node, inputs=(before[source].inputs[0], node.inputs[1]))
            before[node.outputs[0]] = node
            made, given = graph.tensors[node.outputs[0]], graph.tensors[str(node.inputs[0])]
            if made.shape == given.shape and made.grid is None and made.name not in held:
                same[made.name] = given.name
        elif node.operator == "FULLY_CONNECTED" and not node.attributes["keep_num_dims"]:
            node = _of_rows(graph, node, before.get(str(node.inputs[0])), held)
        nodes.append(node)
    read = {name for node in nodes for name in node.inputs if name} | held
    gone = {node.outputs[0] for node in nodes if node.operator == "RESHAPE" and node.outputs[0] not in read}
    graph.nodes = [node for node in nodes if node.outputs[0] not in gone]
    for name in gone:
        del graph.tensors[name]


def _of_rows(graph: Graph, node: Node, reshape: Node | None, held: set[str]) -> Node:
    """A FULLY_CONNECTED, which takes the last axis for its rows whatever is before it, without a RESHAPE to rows."""
    if reshape is None or reshape.outputs[0] in held or graph.tensors[reshape.outputs[0]].grid is not None:
        return node
    source, weight = (graph.tensors[str(name)] for name in (reshape.inputs[0], node.inputs[1]))
    return replace(node, inputs=(source.name, *node.inputs[1:])) if source.shape[-1:] == weight.shape[1:] else node
