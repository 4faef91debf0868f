"""Layers and models that users wrote, made again from their configuration, with wrappers at their attributes.

A user's `get_config` knows nothing of the wrappers. So an object that holds some gets a subclass of its own class, of
the same name, whose configuration lists them; from it, Keras's loader makes the user's object and puts them back.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any, TypeAlias

import keras
from keras import tree

from keras_compress.core import keras_private
from keras_compress.core.kinds_of_layers import is_user_written
from keras_compress.core.quiet import ignored_warnings
from keras_compress.core.registry import PACKAGE
from keras_compress.graph import graph, parts
from keras_compress.graph.configuration import configuration

ADDED_BY_KERAS = ("name", "trainable", "dtype")
REGISTERED_NAME = "UserWritten"
# Keras's warning of sub-layers that a `build` leaves unbuilt: they are built by a run afterwards.
_UNBUILT = ".*looks like it has unbuilt state"
Layer: TypeAlias = keras.layers.Layer


def make_again(layer: Layer) -> Layer:
    """A new object of the class of a layer or model that a user wrote, built like it; its values are not copied.

    Raises:
        ValueError: Where `from_config(get_config())` does not make it, naming the reason.
    """
    try:
        with configuration(layer) as config:
            made = _from_config(type(layer), config)
        build_like(made, layer.get_build_config())
    except Exception as error:
        raise _refusal(layer, f"{type(error).__name__}: {first_line(error)}") from error
    if [tuple(v.shape) for v in made.variables] != [tuple(v.shape) for v in layer.variables]:
        raise _refusal(layer, f"{len(made.variables)} variables instead of {len(layer.variables)}, or of other shapes")
    _name_like(made, layer)
    return made


def _from_config(cls: type, config: dict[str, Any]) -> Layer:
    """As Keras does, but without what Keras adds to every configuration and this constructor does not take."""
    inherited = cls.from_config.__func__ in (Layer.from_config.__func__, keras.Model.from_config.__func__)  # type: ignore[attr-defined]
    taken = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    if inherited and not any(each.kind is each.VAR_KEYWORD for each in taken.values()):
        config = {key: value for key, value in config.items() if key in taken or key not in ADDED_BY_KERAS}
    with ignored_warnings(_UNBUILT):
        made: Layer = cls.from_config(config)  # type: ignore[attr-defined]
    return made


def _refusal(layer: Layer, reason: str) -> ValueError:
    name = type(layer).__name__
    return ValueError(
        f"Expected {name} to be made again by `from_config(get_config())`: let `get_config` return every argument of "
        "the constructor, make all sub-layers in `__init__` or `build`, and, where `call` takes several inputs, write "
        f"a `build` that builds them. Received: {name} {layer.name!r}: {reason}"
    )


def first_line(error: Exception) -> str:
    """What an error says, as far as a line holds."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "no message"


def _name_like(made: Layer, layer: Layer) -> None:
    """Names and `trainable` that a configuration may leave out."""
    made.name = layer.name
    if made.dtype_policy.name != layer.dtype_policy.name:
        raise _refusal(layer, f"dtype {made.dtype_policy.name!r} instead of {layer.dtype_policy.name!r}")
    if made.trainable != layer.trainable:
        made.trainable = layer.trainable
    for reference, each in graph.children(layer) if is_user_written(layer) else ():
        try:
            again = parts.get_part(made, reference)
        except LookupError as error:
            raise _refusal(layer, f"no {error.args[0]}") from error
        if not _ours(again):
            _name_like(again, each)


def build_like(made: Layer, build_config: dict[str, Any] | None) -> None:
    """Build a layer or model and its sub-layers: by its own `build`, or by a symbolic run, as Keras does on a call.

    Args:
        made: From `from_config`.
        build_config: From the original's `get_build_config`.
    """
    if not build_config or (made.built and not _unbuilt(made)):
        return
    own = type(made).build_from_config
    if own not in (keras.layers.Layer.build_from_config, keras.Model.build_from_config):
        made.build_from_config(build_config)
        return
    shapes = build_config["shapes_dict"] if "shapes_dict" in build_config else build_config["input_shape"]
    named = isinstance(shapes, dict) and "shapes_dict" in build_config
    with ignored_warnings(_UNBUILT):
        made.build(**shapes) if named else made.build(shapes)
    if _unbuilt(made):
        _run(made, shapes if named else {None: shapes})


def _unbuilt(layer: Layer) -> bool:
    return any(not each.built for each in keras_private.flattened(layer, include_self=False))


def _run(layer: Layer, shapes: dict[Any, Any]) -> None:
    """Call a layer on symbolic inputs, floats or, where it takes none, integers."""
    failure: Exception | None = None
    for dtype in ("float32", "int32"):
        make = functools.partial(keras.KerasTensor, dtype=dtype)
        inputs = {key: tree.map_shape_structure(make, shape) for key, shape in shapes.items()}
        positional = [inputs.pop(None)] if None in inputs else []
        try:
            keras_private.output_spec(
                layer.call, *positional, **{key.removesuffix("_shape"): value for key, value in inputs.items()}
            )
            return
        except Exception as error:
            failure = failure or error
    raise failure or ValueError("it has no inputs")


class Remade:
    """What an object with wrappers inside adds to the class that a user wrote: a configuration that lists them."""

    origin: type

    def get_config(self) -> dict[str, Any]:
        """The user's configuration, and the wrapped sub-layers with the references that hold them."""
        return _config(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """The user's object with the wrappers at its attributes."""
        return _restore(config)


_register = keras.saving.register_keras_serializable(package=PACKAGE, name=REGISTERED_NAME)
_register(Remade)


@functools.cache
def _remade_class(origin: Any) -> type:
    def get_config(self: Any) -> dict[str, Any]:
        return _config(self)

    # Keras writes the configuration of a class without a `get_config` of its own from the constructor's arguments.
    keras_private.set_default_config(get_config, keras_private.has_default_config(origin.get_config))
    about = {"__module__": origin.__module__, "__qualname__": origin.__qualname__, "__doc__": origin.__doc__}
    made = type(origin.__name__, (Remade, origin), {**about, "origin": origin, "get_config": get_config})
    _register(made)
    # All these classes are saved under one name, which loads them through `Remade`.
    _register(Remade)
    return made


def classes_in(layer: Layer) -> dict[str, type]:
    """Classes of users' layers in `layer` by the names under which Keras saves them: copying needs no registration."""
    classes = {each.origin if isinstance(each, Remade) else type(each) for each in keras_private.flattened(layer)}
    own = [each for each in classes if each.__module__.split(".")[0] not in ("keras", "keras_compress")]
    return {keras.saving.get_registered_name(each): each for each in own}


def mark(layer: Layer) -> None:
    """Give a layer the class that saves its wrapped sub-layers, or its own class back where it has none.

    Args:
        layer: A layer or model that a user wrote.
    """
    origin = layer.origin if isinstance(layer, Remade) else type(layer)
    layer.__class__ = _remade_class(origin) if _wrapped(layer) else origin


def _wrapped(layer: Layer) -> list[tuple[parts.Reference, Layer]]:
    """Sub-layers at any depth that a user's constructor does not make: wrappers, and graphs with wrappers in them."""
    found: list[tuple[parts.Reference, Layer]] = []
    for reference, each in graph.children(layer):
        if is_user_written(each):
            found.extend(((*reference, *inside), deep) for inside, deep in _wrapped(each))
        elif has_wrappers(each):
            found.append((reference, each))
    return found


def has_wrappers(layer: Layer) -> bool:
    """Whether a layer, or something in it, was made by this library."""
    return any(_ours(each) for each in (layer, *(each for _, each in graph.walk(layer))))


def _ours(layer: Layer) -> bool:
    return type(layer).__module__.startswith("keras_compress.")


def _config(layer: Any) -> dict[str, Any]:
    origin = layer.origin
    serialize = keras.saving.serialize_keras_object
    held: dict[int, dict[str, Any]] = {}
    for reference, each in _wrapped(layer):
        if id(each) not in held:
            held[id(each)] = {"references": [], "layer": serialize(each)}
        held[id(each)]["references"].append(list(reference))
    own = {
        "module": origin.__module__,
        "class_name": origin.__name__,
        "registered_name": keras.saving.get_registered_name(origin),
        "config": serialize(origin.get_config(layer)),
    }
    return {"layer": own, "build_config": serialize(layer.get_build_config()), "parts": list(held.values())}


def _restore(config: dict[str, Any]) -> Layer:
    restore = keras.saving.deserialize_keras_object
    spec = config["layer"]
    # A class is found here as Keras's own loader finds it; an unknown one is refused in Keras's words.
    cls = keras.saving.get_registered_object(spec["registered_name"])
    made: Layer = restore(spec) if cls is None else _from_config(cls, spec["config"])
    build_like(made, restore(config["build_config"]))
    for part in config["parts"]:
        each = restore(part["layer"])
        for reference in part["references"]:
            _put_back(made, tuple(reference), each)
    mark(made)
    return made


def _put_back(made: Layer, reference: parts.Reference, layer: Any) -> None:
    try:
        if not isinstance(layer, keras.layers.Layer):
            raise LookupError(f"{type(layer).__name__} as a layer")
        parts.put_part(*parts.owner_of(made, reference), layer)
    except LookupError as error:
        raise ValueError(
            f"Expected {type(made).__name__} {made.name!r} with its sub-layers where they were when it was saved. "
            f"Received: no {error.args[0]}"
        ) from error
