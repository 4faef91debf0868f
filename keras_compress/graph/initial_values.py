"""Make a copy of a layer without drawing random weights that are overwritten right away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_compress.core import keras_private

# Below this drawing random numbers costs less than going around it.
_FEW_WEIGHTS = 10_000


def made_with_values(source: keras.layers.Layer, make: Callable[[], keras.layers.Layer]) -> keras.layers.Layer:
    """What `make()` gives, its variables holding the values of `source` from the start.

    The initializers of a large layer take longer than all else in copying it, and twice its memory. Inside a
    `StatelessScope` Keras puts them off; they are replaced before the scope ends. Tensors are shared, not copied, until
    one of them changes.

    Args:
        source: Built layer.
        make: Makes a layer with the same variables; where it makes others, they keep their own initial values.
    """
    if not _defers(source):
        return make()
    with keras.StatelessScope():
        made = make()
        old, new = source.variables, made.variables
        if [tuple(v.shape) for v in old] == [tuple(v.shape) for v in new]:
            for value, variable in zip(old, new, strict=True):
                keras_private.set_initializer(variable, _constant(value))
    return made


def _constant(value: keras.Variable) -> Callable[..., Any]:
    return lambda shape, dtype=None: ops.cast(value, dtype or value.dtype)


def _defers(layer: keras.layers.Layer) -> bool:
    """Whether a layer is large, and Keras's own or ours: a user's may make variables in ways that cannot be put off."""
    few = sum(v.shape.num_elements() for v in layer.variables) < _FEW_WEIGHTS
    if few or keras_private.stateless_scope() is not None:
        return False
    classes = map(type, keras_private.flattened(layer))
    return all(each.__module__.startswith(("keras.", "keras_compress.")) for each in classes)
