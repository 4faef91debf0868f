"""Make a copy of a layer without drawing random weights that are overwritten right away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_compress.core import keras_private
from keras_compress.core.ste import value_of


def made_with_values(
    source: keras.layers.Layer, make: Callable[[], keras.layers.Layer]
) -> tuple[keras.layers.Layer, bool]:
    """What `make()` gives, its variables holding the values of `source` from the start, and whether they do.

    The initializers of a layer take longer than all else in copying it, and those of a large one twice its memory.
    Inside a `StatelessScope` Keras puts them off; they are replaced before the scope ends. Tensors are shared, not
    copied, until one of them changes.

    Args:
        source: Built layer.
        make: Makes a layer with the same variables; where it makes others, they keep their own initial values.
    """
    if not _defers(source):
        return make(), False
    try:
        return _put_off(source, make)
    except ValueError:
        # Variables that begin with a tensor cannot be put off. What is wrong with the layer itself is said here again.
        return make(), False


def _put_off(source: keras.layers.Layer, make: Callable[[], keras.layers.Layer]) -> tuple[keras.layers.Layer, bool]:
    with keras.StatelessScope():
        made = make()
        old, new = source.variables, made.variables
        same = [tuple(v.shape) for v in old] == [tuple(v.shape) for v in new]
        if same:
            for value, variable in zip(old, new, strict=True):
                keras_private.set_initializer(variable, _constant(value))
    return made, same


def _constant(value: keras.Variable) -> Callable[..., Any]:
    def made(shape: Any, dtype: Any = None) -> Any:
        tensor = value_of(value)
        return tensor if dtype in (None, value.dtype) else ops.cast(tensor, dtype)

    return made


def _defers(layer: keras.layers.Layer) -> bool:
    """Whether a layer is Keras's own or ours: a user's may make variables in ways that cannot be put off.

    Recurrent layers that keep their states make them of tensors, which cannot be put off either.
    """
    if not layer.variables or keras_private.stateless_scope() is not None:
        return False
    layers = keras_private.flattened(layer)
    if any(getattr(each, "stateful", False) for each in layers):
        return False
    return all(type(each).__module__.startswith(("keras.", "keras_compress.")) for each in layers)
