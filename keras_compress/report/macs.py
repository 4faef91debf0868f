"""Multiplications of a model, from the shapes in its graph."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import keras

from keras_compress.graph import graph
from keras_compress.graph.model import inner

Shape = tuple[int | None, ...]
# Layers that multiply each weight once at each position of the output, or of the input, or at each time step.
_PER_OUTPUT = (
    "Dense",
    "Conv1D",
    "Conv2D",
    "Conv3D",
    "DepthwiseConv1D",
    "DepthwiseConv2D",
    "SeparableConv1D",
    "SeparableConv2D",
)
_PER_INPUT = ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
_PER_STEP = ("LSTM", "GRU", "SimpleRNN")


def positions_by_layer(model: keras.Model) -> dict[int, int | None]:
    """`id(layer)` -> how many times a sample multiplies each weight of the layer, over all its calls.

    One multiplication with an addition (MAC) for each weight at each output position of a dense, convolutional,
    depthwise or separable layer, at each input position of a transposed convolution, at each step of a recurrent
    layer; none in an embedding. Padding counts as if it were data. `None` where the shapes are not known before data
    are there, or where the layer is of another kind.

    Args:
        model: Any model; the layers are those that `graph.walk` gives. A subclassed model, or a layer that a user
            wrote, has no graph that would tell: its layers are left out.
    """
    found: dict[int, int | None] = {}
    for key, (layer, shapes) in _calls(model).items():
        counts = [_positions(inner(layer), *pair) for pair in shapes.elements()]
        found[key] = None if None in counts else sum(n for n in counts if n is not None)
    return found


def _calls(model: keras.Model) -> dict[int, tuple[Any, Counter[tuple[Shape, Shape]]]]:
    """`id(layer)` -> the layer, and how often it is called with which input and output shape."""
    calls: dict[int, tuple[Any, Counter[tuple[Shape, Shape]]]] = {}
    for node in graph.nodes(model) if graph.is_graph(model) else ():
        layer = node.operation
        if graph.is_graph(layer):
            # Each call of a nested model calls all of its layers.
            for key, (nested, shapes) in _calls(layer).items():
                calls.setdefault(key, (nested, Counter()))[1].update(shapes)
        elif isinstance(layer, keras.layers.Layer) and node.input_tensors and node.outputs:
            pair = (tuple(graph.inputs_of(node)[0].shape), tuple(node.outputs[0].shape))
            calls.setdefault(id(layer), (layer, Counter()))[1][pair] += 1
    return calls


def _positions(layer: keras.layers.Layer, inputs: Shape, outputs: Shape) -> int | None:
    names = [cls.__name__ for cls in type(layer).__mro__ if cls.__module__.startswith("keras.")]
    kind = names[0] if names else ""
    if kind == "Embedding":
        return 0
    if kind in _PER_STEP:
        return inputs[1]
    if kind not in (*_PER_OUTPUT, *_PER_INPUT):
        return None
    # Axis 0 counts samples, the last one channels.
    positions = (outputs if kind in _PER_OUTPUT else inputs)[1:-1]
    known = [n for n in positions if n is not None]
    return math.prod(known) if len(known) == len(positions) else None
