"""Layers that no TFLite file can hold: refused by name before any converter runs."""

from __future__ import annotations

from typing import Any

import keras

from keras_compress.graph import graph
from keras_compress.graph.model import inner

_BEFORE = (
    "do it to the data, before the model (in `tf.data.Dataset.map`, or in the program around the file), and convert "
    "the model from the layer behind it on"
)
# Names of Keras layers -> why.
_REFUSED = {
    "StringLookup": "it looks strings up in a table",
    "IntegerLookup": "it looks numbers up in a hash table",
    "TextVectorization": "it takes strings apart",
    "Hashing": "it hashes strings",
    "HashedCrossing": "it hashes strings",
}
_COUNTING = ("multi_hot", "count", "tf_idf")


def check_layers(model: keras.Model) -> None:
    """Refuse layers without operators in TFLite, in any mode.

    Raises:
        ValueError: Naming the layer, by its path, and the cure.
    """
    for path, layer in graph.walk(model):
        reason = _reason(inner(layer))
        if reason is not None:
            raise ValueError(
                f"Expected layers that TFLite has operators for. Received: {type(inner(layer)).__name__} at {path!r}: "
                f"{reason}; {_BEFORE}."
            )


def check_static_shapes(model: keras.Model) -> None:
    """Refuse inputs whose size is not known.

    Raises:
        ValueError: Naming the input.
    """
    for tensor in model.inputs:
        if None in tensor.shape[1:]:
            raise ValueError(
                "Expected static shapes except for the batch: build the model with `Input(shape=...)` of the size that "
                f"it is to run with. Received: input {tensor.name!r} of shape {tuple(tensor.shape)}"
            )


def _reason(layer: Any) -> str | None:
    names = [cls.__name__ for cls in type(layer).__mro__ if cls.__module__.startswith("keras.")]
    found = next((_REFUSED[name] for name in names if name in _REFUSED), None)
    if found is None and "CategoryEncoding" in names and layer.output_mode in _COUNTING:
        return f"it counts tokens, output_mode={layer.output_mode!r}"
    return found
