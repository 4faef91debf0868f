"""Zeros around an image as the padding of the convolution that reads it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from keras_compress.ir.graph import Graph, Node

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")


def fuse_padding(graph: Graph) -> None:
    """Drop a PAD that one convolution reads, where padding `SAME` puts as many zeros in the same places."""
    readers = graph.readers()
    held = {tensor for _, tensor in graph.outputs} | {point.tensor for point in graph.points}
    pads = {node.outputs[0]: node for node in graph.nodes if node.operator == "PAD"}
    gone: set[str] = set()
    for number, node in enumerate(graph.nodes):
        name = str(node.inputs[0])
        if node.operator not in _CONVOLUTIONS or name not in pads or name in held or len(readers[name]) != 1:
            continue
        if node.attributes["padding"] == "VALID" and _is_same(graph, pads[name], node):
            inputs = (pads[name].inputs[0], *node.inputs[1:])
            graph.nodes[number] = replace(node, inputs=inputs, attributes={**node.attributes, "padding": "SAME"})
            gone.add(name)
    graph.nodes = [node for node in graph.nodes if node.outputs[0] not in gone]
    for name in gone:
        del graph.tensors[name]


def _is_same(graph: Graph, pad: Node, convolution: Node) -> bool:
    """Whether the kernels, told `SAME`, would put the zeros of a PAD."""
    ends = graph.tensors[str(pad.inputs[1])].array()
    source, made = graph.tensors[str(pad.inputs[0])].shape, graph.tensors[convolution.outputs[0]].shape
    if len(source) != 4 or ends[0].any() or ends[3].any():
        return False
    kernel, settings = graph.tensors[str(convolution.inputs[1])].shape[1:3], convolution.attributes
    for axis, letter in ((1, "h"), (2, "w")):
        extent = (kernel[axis - 1] - 1) * settings[f"dilation_{letter}_factor"] + 1
        stride, size = settings[f"stride_{letter}"], source[axis]
        if made[axis] != -(-size // stride):
            return False
        total = max((made[axis] - 1) * stride + extent - size, 0)
        if not np.array_equal(ends[axis], [total // 2, total - total // 2]):
            return False
    return True
