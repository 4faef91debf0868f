"""One flat graph in which every layer is called once: what freezing and exporting work on."""

from __future__ import annotations

from typing import Any

import keras

from keras_compress.core import graph
from keras_compress.core.model import copy_layer

# Layers that do nothing in inference.
_INFERENCE_IDENTITY = (
    "Dropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "GaussianNoise",
    "GaussianDropout",
    "AlphaDropout",
    "ActivityRegularization",
    "Identity",
)


def flatten(model: keras.Model) -> keras.Model:
    """A copy of a model with nested models put in line and a layer of its own for every call.

    Layers are named by their path, `encoder.conv1`; the second call of a layer becomes `conv1.call1`. Layers that do
    nothing in inference are left out.
    """

    def visit(call: graph.Call) -> Any:
        operation = call.operation
        if type(operation).__name__ in _INFERENCE_IDENTITY and len(call.args) == 1:
            return call.args[0]
        name = flat_name(call)
        if not isinstance(operation, keras.layers.Layer):
            copied = type(operation).from_config(operation.get_config())
            copied.name = name
            return call.run(copied)
        copied = copy_layer(operation)
        copied.name = name
        return call.run(copied)

    return graph.Rebuild(visit, flat=True).model(model)


def flat_name(call: graph.Call) -> str:
    """Name of a call in the flat graph."""
    return call.path.replace("/", ".") + (f".call{call.index}" if call.index else "")
