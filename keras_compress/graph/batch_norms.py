"""The graphs in a model, and the BatchNormalizations that can be folded into what is before them."""

from __future__ import annotations

import keras

from keras_compress.core.batch_norm import foldable
from keras_compress.graph import graph


def batch_norm_after(model: keras.Model) -> dict[int, keras.layers.Layer]:
    """`id(layer)` -> the BatchNormalization that can be folded into it, for every layer that has one."""
    found: dict[int, keras.layers.Layer] = {}
    for each in graphs_in(model):
        table = graph.consumers(each)
        for node in graph.nodes(each):
            reader = graph.sole_consumer(node, each, table)
            if reader is not None and foldable(node.operation, reader.operation):
                found[id(node.operation)] = reader.operation
    return found


def graphs_in(model: keras.layers.Layer) -> list[keras.Model]:
    """The graphs in a model, itself among them where it is one, each once."""
    found = {id(model): model} if graph.is_graph(model) else {}
    for _, layer in graph.children(model):
        found.update((id(each), each) for each in graphs_in(layer))
    return list(found.values())
