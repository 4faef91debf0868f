"""What users of tfmot hand over out of habit, and what to write here."""

from __future__ import annotations

from typing import Any

import keras


def check_not_of_tfmot(model: Any) -> None:
    """Refuse a Keras 2 model, and a layer or a list, of which tfmot makes wrapped layers.

    Raises:
        TypeError: With what to do here.
    """
    if type(model).__module__.startswith(("tf_keras", "tensorflow.python.keras")):
        raise TypeError(
            "Expected a Keras 3 model. Received: a tf_keras (Keras 2) model; `kc.from_tfmot(model)` makes it one, with "
            "tfmot's wrappers or without. Then unset TF_USE_LEGACY_KERAS."
        )
    if isinstance(model, (list, tuple)) or (
        isinstance(model, keras.layers.Layer) and not isinstance(model, keras.Model)
    ):
        raise TypeError(
            "Expected a keras.Model; which of its layers are meant is said by name or class, "
            '`filters=["conv_1", "class:Dense"]`. '
            f"Received: {type(model).__name__} {getattr(model, 'name', '')}".rstrip()
        )


def declared_for_tfmot(layer: keras.layers.Layer) -> str | None:
    """What to write for a method by which a user's layer tells tfmot its weights; `None` where it has none."""
    if hasattr(layer, "get_compressible_weights"):
        return None
    for name in ("get_prunable_weights", "get_clusterable_weights"):
        if hasattr(layer, name):
            return (
                f"whose `{name}()` tfmot reads. Write `get_compressible_weights()`, which returns "
                '{attribute: output-channel axes}, such as {"kernel": (-1,)}'
            )
    return None
