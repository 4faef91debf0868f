"""Weights of 1x1 convolutions stored without zeros behind DENSIFY, which makes XNNPACK look for sparse kernels."""

from __future__ import annotations

from typing import Any

from ai_edge_litert import schema_py_generated as schema

from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.sparse_clusters import clusters


def store_sparse_convolutions(graph: Graph) -> list[str]:
    """Store the weights that XNNPACK would compute sparsely as sparse tensors, where all it does is right.

    All that read such a weight read the dense one: kernels that know nothing of sparse tensors would read beyond the
    stored values.

    Args:
        graph: float32 file with a fixed number of samples; `prefer_channels_first` has been through it.

    Returns:
        Names of the weights; none where one operator would be computed wrong.
    """
    found = clusters(graph)
    if found.wrong:
        return []
    first: list[Any] = []
    dense: dict[int, int] = {}
    readers = graph.consumers()
    for step in found.steps:
        weight = step.op.inputs[1] if found.sparse(step) else -1
        if weight < 0 or weight in graph.outputs or not graph.is_constant(weight):
            continue
        # From here on all its readers name the dense tensor, so that no weight comes here twice.
        dense[weight] = graph.add_tensor(f"{graph.name(weight)}/dense", graph.shape(weight), "float32")
        graph.store_sparse(weight, 1)
        first.append(graph.make_operator("DENSIFY", [weight], [dense[weight]], schema.DensifyOptionsT()))
        for op in readers[weight]:
            op.inputs = [dense[weight] if tensor == weight else tensor for tensor in op.inputs]
    graph.operators = [*first, *graph.operators]
    return [graph.name(weight) for weight in dense]
