"""The order in which nodes run."""

from __future__ import annotations

from keras_compress.ir.graph import Graph, Node


def depth_first(graph: Graph) -> None:
    """Put each node right behind what it needs, outputs and operands in their order.

    Steps of a sequence, and branches, are finished one by one: fewer tensors are held at a time than by layers.
    """
    producers = {name: number for number, node in enumerate(graph.nodes) for name in node.outputs}
    wanted = [name for _, name in graph.outputs] + [name for node in graph.nodes for name in node.outputs]
    done: set[int] = set()
    order: list[Node] = []
    for name in wanted:
        stack = [producers[name]] if name in producers else []
        while stack:
            number = stack[-1]
            node = graph.nodes[number]
            missing = [producers[i] for i in node.inputs if i in producers and producers[i] not in done]
            if missing:
                stack.append(missing[0])
                continue
            stack.pop()
            if number not in done:
                done.add(number)
                order.append(node)
    graph.nodes = order
