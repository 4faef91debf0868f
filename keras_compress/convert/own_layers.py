"""Layers that a frozen model has for itself."""

from __future__ import annotations

from typing import Any

import keras

from keras_compress.core import keras_private
from keras_compress.core.wrapper import Compressed
from keras_compress.graph.configuration import configuration
from keras_compress.graph.model import copy_layer


def own(operation: Any) -> Any:
    """An operation of the flat graph for the frozen model: weights that it may share with the user's are copied."""
    shares = isinstance(operation, keras.layers.Layer) and not isinstance(operation, Compressed)
    return copy_layer(operation) if shares and keras_private.own_variables(operation) else operation


def with_bias(layer: keras.layers.Layer, name: str, shape: tuple[int | None, ...]) -> keras.layers.Layer:
    """A layer like another one, with a bias; the values follow."""
    with configuration(layer) as config:
        config = {**config, "use_bias": True, "name": name}
        # Nothing is gained by drawing random values first.
        config.update((key, "zeros") for key in config if key.endswith("_initializer"))
        made: keras.layers.Layer = type(layer).from_config(config)
    made.build(shape)
    return made
