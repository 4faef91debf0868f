"""What quantizes the inputs of a wrapped layer, as a layer of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras

from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph
from keras_compress.graph.model import LayerCopies, compressed_layers, copy_layer


def input_points_apart(model: keras.Model) -> keras.Model:
    """A copy of a graph in which what quantizes the inputs of a wrapped layer is a layer before it.

    The model itself where no wrapper in a graph has such a point.
    """
    if not graph.is_graph(model) or all(layer.input_point is None for _, layer in compressed_layers(model)):
        return model
    copies = LayerCopies()
    apart: dict[int, tuple[keras.layers.Layer, Compressed]] = {}

    def visit(call: graph.Call) -> Any:
        layer = call.operation
        if not isinstance(layer, Compressed) or layer.input_point is None:
            return copies(call)
        if id(layer) not in apart:
            copy = copy_layer(layer)
            apart[id(layer)] = copy.input_point, copy.remade(copy.transforms, input_point=None)
        point, wrapper = apart[id(layer)]
        return replace(call, args=(point(call.args[0]), *call.args[1:])).run(wrapper)

    copies.visit = visit
    return graph.Rebuild(visit).model(model)
