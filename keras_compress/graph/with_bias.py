"""Copies of layers that have a bias, as correcting one needs."""

from __future__ import annotations

from typing import Any

import keras

from keras_compress.graph import remade
from keras_compress.graph.model import copy_layer, made_like


def copy_with_bias(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A copy of a layer of weighted sums, with a bias: of zeros, where the layer has none."""
    if layer.bias is not None:
        return copy_layer(layer)
    with keras.saving.custom_object_scope(remade.classes_in(layer)):
        made = made_like(layer, _with_bias(layer))
    made.bias.assign(keras.ops.zeros_like(made.bias))
    others = [variable for variable in made.variables if variable is not made.bias]
    for old, new in zip(layer.variables, others, strict=True):
        new.assign(old)
    return made


def _with_bias(layer: keras.layers.Layer) -> dict[str, Any]:
    if isinstance(layer, keras.layers.EinsumDense):
        return {"bias_axes": layer.equation[-1]}
    return {"use_bias": True}
