"""Keras's record of the sub-layers of a layer. The only file that writes to it.

Keras locks the record once a layer is built: assigning a new sub-layer then raises "You cannot add new elements of
state". Replacing one entry by another adds nothing, and keeps the order of the variables.
"""

from __future__ import annotations

import keras


def replace_tracked(owner: keras.layers.Layer, old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    """Let `owner` track `new` in the place of `old`; nothing happens where it does not track `old`.

    Args:
        owner: The layer whose record is changed, built or not.
        old: One of its sub-layers, in an attribute or in a container of its.
        new: The layer to be tracked from now on. It still has to be assigned to the attribute.

    Raises:
        RuntimeError: Where this version of Keras keeps its record in another way.
    """
    tracker = owner._tracker
    try:
        stored, layers = tracker.stored_ids["layers"], tracker.config["layers"][1]
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        raise RuntimeError(
            "Expected a Keras version whose layers keep their sub-layers in `_tracker.config['layers']`. "
            f"Received: Keras {keras.__version__}"
        ) from error
    if id(old) not in stored:
        return
    index = next(i for i, layer in enumerate(layers) if layer is old)
    stored.remove(id(old))
    if id(new) in stored:
        del layers[index]
    else:
        layers[index] = new
        stored.add(id(new))
