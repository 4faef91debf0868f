"""The sub-layers of layers and models that users wrote: where they are held, and how one is put in another's place."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import keras

from keras_compress.core import keras_private

# Attribute, then keys: `("blocks", 0, "conv")` is `layer.blocks[0]["conv"]`.
Reference = tuple[str | int, ...]


def sub_layers(owner: keras.layers.Layer) -> list[tuple[Reference, keras.layers.Layer]]:
    """`(reference, layer)` for each sub-layer in an attribute of `owner`, or in lists, tuples and dicts of attributes.

    A layer that is held twice is listed twice.
    """
    tracked = {id(layer) for layer in keras_private.sub_layers(owner)}
    attributes = [(name, value) for name, value in vars(owner).items() if name not in _keras_attributes()]
    found = [each for name, value in attributes if name[:6] != "_self_" for each in _layers_in((name,), value)]
    return [(reference, layer) for reference, layer in found if id(layer) in tracked]


def hidden_layers(owner: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Sub-layers that Keras tracks, but that no attribute, list, tuple or dict holds: in sets, under odd keys."""
    held = {id(layer) for _, layer in sub_layers(owner)}
    return [layer for layer in keras_private.sub_layers(owner) if id(layer) not in held]


@functools.cache
def _keras_attributes() -> frozenset[str]:
    """What every layer and model has: its own lists of layers and calls are no attributes of the user's."""
    return frozenset({*vars(keras.layers.Layer()), *vars(keras.Model()), "_functional"})


def _layers_in(reference: Reference, value: Any) -> Iterator[tuple[Reference, keras.layers.Layer]]:
    if isinstance(value, keras.layers.Layer):
        yield reference, value
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _layers_in((*reference, index), item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(key, (str, int)):
                yield from _layers_in((*reference, key), item)


def path_of(reference: Reference) -> str:
    """The reference as a path.

    >>> path_of(("blocks", 0, "conv"))
    'blocks/0/conv'
    """
    return "/".join(str(key) for key in reference)


def get_part(owner: keras.layers.Layer, reference: Reference) -> keras.layers.Layer:
    """The sub-layer at a reference.

    Raises:
        LookupError: If there is none.
    """
    holder, last = owner_of(owner, reference)
    found: Any = getattr(holder, str(last[0]), None)
    for key in last[1:]:
        found = _item(found, key)
    if not isinstance(found, keras.layers.Layer):
        raise LookupError(f"{path_of(reference)} in {owner.name!r}")
    return found


def owner_of(owner: keras.layers.Layer, reference: Reference) -> tuple[keras.layers.Layer, Reference]:
    """The innermost layer on the way of a reference, and the rest of the reference: where the part itself is held."""
    part: Any = owner
    start = 0
    for position, key in enumerate(reference):
        if isinstance(part, keras.layers.Layer):
            owner, start = part, position
            part = getattr(part, str(key), None)
        else:
            part = _item(part, key)
    return owner, reference[start:]


def _item(container: Any, key: str | int) -> Any:
    try:
        return container[key]
    except (LookupError, TypeError):
        return None


def put_part(owner: keras.layers.Layer, reference: Reference, layer: keras.layers.Layer) -> None:
    """Hold `layer` at a reference of `owner`, which may be built, in the place of the sub-layer that is there."""
    old = get_part(owner, reference)
    if old is layer:
        return
    keras_private.replace_sub_layer(owner, old, layer)
    name, *keys = reference
    held = getattr(owner, str(name))
    value = _replaced(held, keys, layer)
    if value is not held:
        setattr(owner, str(name), value)


def _replaced(held: Any, keys: list[str | int], layer: keras.layers.Layer) -> Any:
    """`held` with `layer` at the end of `keys`: itself, changed, or a new tuple."""
    if not keys:
        return layer
    item = _replaced(held[keys[0]], keys[1:], layer)
    if isinstance(held, tuple):
        items = [item if i == keys[0] else each for i, each in enumerate(held)]
        # A named tuple takes its fields one by one.
        return held.__class__(*items) if hasattr(held, "_fields") else tuple(items)
    if item is not held[keys[0]]:
        held[keys[0]] = item
    return held
