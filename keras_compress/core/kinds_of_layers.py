"""Whether a layer holds a graph of layers, and whether a user wrote it."""

from __future__ import annotations

from typing import Any

import keras

from keras_compress.core import keras_private


def is_graph(layer: Any) -> bool:
    """Whether a layer is a model that holds a graph of its own."""
    return isinstance(layer, (keras.Sequential, keras_private.Functional))


def is_user_written(layer: Any) -> bool:
    """Whether a layer or model has a class of the user's own, and no graph: what it computes is in its `call`."""
    package = type(layer).__module__.split(".")[0]
    return isinstance(layer, keras.layers.Layer) and not is_graph(layer) and package not in ("keras", "keras_compress")
