"""Configurations of layers that keep the very functions and objects that users gave them.

Keras writes a configuration for files: an activation that is a lambda, a TensorFlow function or a class of one's own
cannot be written there, or not be read again. A copy in memory needs neither.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from keras_compress.core.kinds_of_layers import is_graph, is_user_written

_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial)
# What Keras itself puts into a layer, around the methods of its class.
_METHODS = frozenset({"build", "quantize", "call"})
_ITS_OWN = ("keras", "keras_compress", "builtins", "numpy")


@contextmanager
def configuration(layer: keras.layers.Layer) -> Iterator[dict[str, Any]]:
    """`layer.get_config()`, from which `from_config` makes the layer again inside the block, its functions included."""
    held: list[Any] = []

    class Held:
        """Stands for an object in a configuration."""

        def __init__(self, value: Any) -> None:
            self.value = value

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.value(*args, **kwargs)

        def get_config(self) -> dict[str, Any]:
            held.append(self.value)
            return {"number": len(held) - 1}

        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Any:
            return held[config["number"]]

    if not _holds_foreign(layer):
        yield layer.get_config()
        return
    with keras.saving.custom_object_scope({Held.__name__: Held}):
        config = _shadow(layer, Held).get_config()
        yield keras.tree.map_structure(lambda each: each.value if isinstance(each, Held) else each, config)


def _holds_foreign(layer: keras.layers.Layer) -> bool:
    own = any(_is_foreign(name, value) for name, value in vars(layer).items())
    return own or any(_holds_foreign(each) for _, _, each in _inside(layer))


def _is_foreign(name: str, value: Any) -> bool:
    """Whether a file could not hold a value, or would hold another one under its name."""
    if name in _METHODS or isinstance(value, (type, keras.layers.Layer, keras.Variable)) or not callable(value):
        return False
    module = getattr(value, "__module__", None) or ""
    if isinstance(value, _FUNCTIONS):
        in_keras = module.startswith("keras.") and not module.startswith("keras.src.ops")
        return not in_keras and value is not getattr(keras.activations, getattr(value, "__name__", ""), None)
    return type(value).__module__.split(".")[0] not in _ITS_OWN


def _inside(layer: keras.layers.Layer) -> list[tuple[str, int | None, keras.layers.Layer]]:
    """Layers that one of Keras's own layers holds and configures: attribute, place in a list, layer."""
    if is_user_written(layer) or is_graph(layer):
        return []
    found: list[tuple[str, int | None, keras.layers.Layer]] = []
    for name, value in vars(layer).items():
        if isinstance(value, keras.layers.Layer):
            found.append((name, None, value))
        elif isinstance(value, (list, tuple)) and name != "_layers":
            found.extend(
                (name, place, each) for place, each in enumerate(value) if isinstance(each, keras.layers.Layer)
            )
    return [(name, place, each) for name, place, each in found if not is_graph(each)]


def _shadow(layer: keras.layers.Layer, hold: Any) -> keras.layers.Layer:
    """An object that gives the layer's configuration, with stand-ins for what no file could hold.

    The layer itself is not touched; everything else is shared with it.
    """
    made: keras.layers.Layer = object.__new__(type(layer))
    values = {name: hold(value) if _is_foreign(name, value) else value for name, value in vars(layer).items()}
    for name, place, each in _inside(layer):
        if place is None:
            values[name] = _shadow(each, hold)
        else:
            values[name] = list(values[name])
            values[name][place] = _shadow(each, hold)
    vars(made).update(values)
    return made
