"""What the file has lost of a sparse or clustered model that came in."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np

from keras_compress.core.existing import Existing, existing
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph
from keras_compress.graph.model import slots_in

_CURE = "`quantize_model` keeps what is there: convert its result"


def notes_of_lost(model: keras.Model, frozen: keras.Model) -> list[str]:
    """A note for each weight whose integers have fewer zeros, or more distinct values, than it came with.

    Args:
        model: As it was given to `convert`.
        frozen: What it became; its integers are those of the file.
    """
    grids = {layer.name: layer for layer in frozen.layers if isinstance(layer, Compressed)}
    notes = []
    for path, slot_name, promised, size in _found(model):
        grid = grids.get(path.replace("/", "."))
        listed = [] if grid is None else grid.transforms.get("kernel", [])
        weight = listed[-1].integer_weight(None) if listed else None
        if weight is None or weight.integers.size != size:
            continue
        sparsity, values = float(np.mean(weight.integers == 0)), len(np.unique(weight.integers))
        if sparsity < promised.sparsity - 0.5 / size:
            notes.append(
                f"{path} {slot_name}: {promised.sparsity:.1%} zeros became {sparsity:.1%} in the file. {_CURE}."
            )
        if promised.values and not promised.per_channel and values > promised.values:
            notes.append(f"{path} {slot_name}: {promised.values} distinct values became {values} in the file. {_CURE}.")
    return notes


def _found(model: keras.Model) -> Iterator[tuple[str, str, Existing, int]]:
    for path, layer in graph.walk(model):
        for slot in slots_in(layer):
            wrapped = isinstance(layer, Compressed)
            variable = slot.variable(layer.layer if wrapped else layer)
            values = layer.weight(slot.name) if wrapped and layer.transforms.get(slot.name) else variable
            array = np.asarray(values)
            yield path, slot.name, existing(array, slot.channel_axes), array.size
