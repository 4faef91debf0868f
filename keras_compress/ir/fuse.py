"""ReLU, ReLU6 and the clip to -1..1 as a setting of the operator before them."""

from __future__ import annotations

from dataclasses import replace

from keras_compress.ir.graph import Graph, Node
from keras_compress.ir.operators import ACTIVATIONS, OPERATORS

# They change the shape only: what is behind them may as well stand before them.
_MOVES = ("RESHAPE",)


def fuse_activations(graph: Graph) -> None:
    """Fuse activations with the operators that take them, where no integers stand between the two."""
    producers = {name: number for number, node in enumerate(graph.nodes) for name in node.outputs}
    readers = graph.readers()
    held = {tensor for _, tensor in graph.outputs} | {name for name, t in graph.tensors.items() if t.grid is not None}
    nodes: list[Node | None] = list(graph.nodes)
    renamed: dict[str, str] = {}
    for number, node in enumerate(graph.nodes):
        if node.operator not in ACTIVATIONS:
            continue
        source = renamed.get(str(node.inputs[0]), str(node.inputs[0]))
        name, chain = source, []
        while name in producers and name not in held and len(readers.get(name, [])) == 1:
            before = nodes[producers[name]]
            if before is None or len(before.outputs) != 1:
                break
            chain.append(producers[name])
            if before.operator not in _MOVES:
                break
            name = str(before.inputs[0])
        maker = nodes[chain[-1]] if chain else None
        if maker is None or maker.attributes.get("activation") != "NONE" or not _takes(maker):
            continue
        nodes[chain[-1]] = replace(maker, attributes={**maker.attributes, "activation": node.operator})
        # The last tensor of the chain is the activation's.
        last = nodes[chain[0]]
        if last is not None:
            nodes[chain[0]] = replace(last, outputs=node.outputs)
            producers[node.outputs[0]] = chain[0]
        nodes[number] = None
        graph.tensors.pop(source)
    graph.nodes = [node for node in nodes if node is not None]


def _takes(node: Node) -> bool:
    return "activation" in OPERATORS[node.operator].settings and node.operator != "CONCATENATION"
