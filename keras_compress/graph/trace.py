"""What a layer computes, as a Functional graph: its `call` run on symbolic tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_compress.core import keras_private
from keras_compress.core.kinds_of_layers import is_graph

KerasTensor = Any


def trace(
    function: Callable[..., Any], inputs: Sequence[KerasTensor], name: str, names: Sequence[str] | None = None
) -> keras.Model:
    """The Functional model of what `function` does with symbolic tensors.

    Its nodes are the very layers and Keras operations that `function` calls, under unique names while the model is
    made only. Names that Keras gives by itself do not depend on what was made before: points are found by them again.

    Args:
        function: Takes one tensor for each of `inputs`.
        inputs: Symbolic tensors, whose shapes and dtypes count.
        name: Name of the model.
        names: Of its inputs.

    Raises:
        TypeError, ValueError: What `function` raises on symbolic tensors; anything that it raises may come out.
    """
    given = names or [f"input_{number}" for number in range(len(inputs))]
    pairs = zip(inputs, given, strict=True)
    fresh = [keras.Input(batch_shape=t.shape, dtype=t.dtype, name=each) for t, each in pairs]
    with keras_private.names_counted_anew():
        outputs = function(*fresh)
    with _unique_names(tree.flatten(outputs)):
        return keras.Model(fresh, outputs, name=name)


@contextmanager
def _unique_names(outputs: Sequence[KerasTensor]) -> Iterator[None]:
    """Keras wants unique names in a graph; sub-layers of different blocks may share one."""
    before: dict[int, tuple[Any, str]] = {}
    taken: set[str] = set()
    for operation in _operations(outputs):
        before[id(operation)] = (operation, operation.name)
        number, unique = 0, operation.name
        while unique in taken:
            number += 1
            unique = f"{operation.name}_{number}"
        taken.add(unique)
        operation.name = unique
    try:
        yield
    finally:
        for operation, name in before.values():
            operation.name = name


def _operations(outputs: Sequence[KerasTensor]) -> list[Any]:
    """Operations that lead to `outputs`, each once, in a fixed order."""
    found: dict[int, Any] = {}
    seen: set[int] = set()
    waiting = [t for t in outputs if isinstance(t, keras.KerasTensor)]
    while waiting:
        tensor = waiting.pop()
        operation, node = keras_private.maker(tensor), keras_private.call_node(tensor)
        if id(node) in seen:
            continue
        seen.add(id(node))
        found[id(operation)] = operation
        waiting += node.input_tensors
    return list(found.values())


def as_graph(model: keras.Model, batch: Any = None) -> keras.Model:
    """A model as a Functional one: a subclassed model becomes the only layer of it.

    Inputs are named by their keys in a dict, by their arguments where `call` takes several, or `inputs`.

    Args:
        model: A built model.
        batch: Samples as the model takes them, which tell the shapes and dtypes that a subclassed model has not kept.

    Raises:
        ValueError: For a subclassed model that has not kept the shape of its inputs, without a batch.
    """
    if is_graph(model):
        return model
    shapes = _shapes_kept(model)
    if shapes is None and batch is None:
        raise ValueError(
            "Expected a subclassed model that knows the shape of its inputs: call it once on data, `model(x)`, in "
            "place of a `build` without shapes, or give `representative_dataset`. "
            f"Received: {model.name!r}, which was only built."
        )
    if shapes is None:
        structure = _named(batch, "inputs", _input_like)
        return keras.Model(structure, model(structure), name=model.name)
    dtypes = iter([np.asarray(array).dtype for array in tree.flatten(batch)])

    def make(shape: Any, name: str) -> Any:
        dtype = next(dtypes, np.dtype("float32"))
        return keras.Input(batch_shape=(None, *shape[1:]), dtype=_dtype(dtype), name=name)

    if len(shapes) == 1:
        (shape,) = shapes.values()
        structure = _named(shape, "inputs", make)
        return keras.Model(structure, model(structure), name=model.name)
    inputs = {key: _named(shape, key, make) for key, shape in shapes.items()}
    return keras.Model(list(inputs.values()), model(**inputs), name=model.name)


def _shapes_kept(model: keras.Model) -> dict[str, Any] | None:
    """Argument of `call` -> shape or structure of shapes, as Keras keeps them when it builds a model for a call."""
    kept = keras_private.shapes_built_with(model)
    shapes = {key.removesuffix("_shape"): shape for key, shape in kept.items()}
    # A `build` of the user's own may have been called without shapes, or with what is none.
    leaves = [leaf for shape in shapes.values() for leaf in _leaves(shape)]
    return shapes if leaves and all(map(_is_shape, leaves)) else None


def _is_shape(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and bool(value) and all(n is None or isinstance(n, int) for n in value)


def _leaves(shape: Any) -> list[Any]:
    if isinstance(shape, dict):
        return [leaf for each in shape.values() for leaf in _leaves(each)]
    if isinstance(shape, (tuple, list)) and not _is_shape(shape):
        return [leaf for each in shape for leaf in _leaves(each)]
    return [shape]


def _named(value: Any, name: str, make: Callable[[Any, str], Any]) -> Any:
    """`make(leaf, name)` for each leaf, in Keras's order, named by its key, or else numbered."""
    if isinstance(value, dict):
        made = {key: _named(value[key], str(key), make) for key in sorted(value)}
        return {key: made[key] for key in value}
    if isinstance(value, (list, tuple)) and not _is_shape(value):
        numbered = (f"{name}_{number}" if number else name for number in range(len(value)))
        return type(value)(_named(each, key, make) for each, key in zip(value, numbered, strict=True))
    return make(value, re.sub(r"[^A-Za-z0-9_.\-]", "_", name))


def _input_like(array: Any, name: str) -> Any:
    """An input for what has the shape and dtype of an array: NumPy's, a tensor, or TensorFlow's description of one."""
    dtype = np.dtype(getattr(array.dtype, "as_numpy_dtype", array.dtype))
    return keras.Input(batch_shape=(None, *array.shape[1:]), dtype=_dtype(dtype), name=name)


def _dtype(dtype: np.dtype[Any]) -> str:
    """The dtype of an input; NumPy's default float64 is no model's."""
    if dtype.kind == "f":
        return "float32"
    return str(dtype) if dtype.kind in "iub" else "float32"
