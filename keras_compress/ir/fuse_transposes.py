"""A TRANSPOSE of matrices as a setting of the product that reads them."""

from __future__ import annotations

from dataclasses import replace

from keras_compress.ir.graph import Graph, Node

_SETTINGS = ("adj_x", "adj_y")


def fuse_transposes(graph: Graph) -> None:
    """Let BATCH_MATMUL read matrices the other way round, where it alone reads the TRANSPOSE that turns them."""
    readers = graph.readers()
    held = {tensor for _, tensor in graph.outputs} | {point.tensor for point in graph.points}
    turned = {
        node.outputs[0]: node
        for node in graph.nodes
        if node.operator == "TRANSPOSE" and node.outputs[0] not in held and len(readers[node.outputs[0]]) == 1
        and _swaps_last(graph, node)
    }  # fmt: skip
    gone: set[str] = set()
    for number, node in enumerate(graph.nodes):
        if node.operator != "BATCH_MATMUL" or node.inputs[0] == node.inputs[1]:
            continue
        inputs, settings = list(node.inputs), dict(node.attributes)
        for place, setting in enumerate(_SETTINGS):
            name = inputs[place]
            if name in turned:
                inputs[place] = turned[name].inputs[0]
                settings[setting] = not settings[setting]
                gone.add(name)
        graph.nodes[number] = replace(node, inputs=tuple(inputs), attributes=settings)
    graph.nodes = [node for node in graph.nodes if node.outputs[0] not in gone]
    for name in gone:
        del graph.tensors[name]


def _swaps_last(graph: Graph, node: Node) -> bool:
    order = graph.tensors[str(node.inputs[1])].array().reshape(-1).tolist()
    rank = len(order)
    return bool(order == [*range(rank - 2), rank - 1, rank - 2])
