"""A reshape of a reshape as one."""

from __future__ import annotations

from dataclasses import replace

from keras_compress.ir.graph import Graph, Node


def merge_reshapes(graph: Graph) -> None:
    """Let a RESHAPE read what the RESHAPE before it reads, where nothing else is known of the tensor between them."""
    held = {tensor for _, tensor in graph.outputs} | {point.tensor for point in graph.points}
    before: dict[str, Node] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.operator == "RESHAPE":
            source = str(node.inputs[0])
            if source in before and source not in held and graph.tensors[source].grid is None:
                node = replace(node, inputs=(before[source].inputs[0], node.inputs[1]))
            before[node.outputs[0]] = node
        nodes.append(node)
    read = {name for node in nodes for name in node.inputs if name} | held
    gone = {node.outputs[0] for node in nodes if node.operator == "RESHAPE" and node.outputs[0] not in read}
    graph.nodes = [node for node in nodes if node.outputs[0] not in gone]
    for name in gone:
        del graph.tensors[name]
