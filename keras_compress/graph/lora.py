"""Layers that Keras gave a LoRA: their kernel is a sum, not a variable."""

from __future__ import annotations

import keras

from keras_compress.graph import graph


def check_no_lora(model: keras.Model) -> None:
    """Refuse layers whose weights are computed anew from a kernel and two factors: nothing there holds a transform.

    Raises:
        ValueError: Naming the first one, by its path, and the cure.
    """
    for path, layer in graph.walk(model):
        if getattr(layer, "lora_enabled", False):
            raise ValueError(
                "Expected layers that hold their weights: build the model again without `enable_lora`, and give each "
                f"layer the `kernel` (or `embeddings`) of this one, which is the sum. Received: LoRA in layer {path!r}"
            )
