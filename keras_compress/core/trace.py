"""What a layer computes, as a Functional graph: its `call` run on symbolic tensors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_compress.core import parts

KerasTensor = Any


def trace(function: Callable[..., Any], inputs: Sequence[KerasTensor], name: str) -> keras.Model:
    """The Functional model of what `function` does with symbolic tensors.

    Its nodes are the very layers and Keras operations that `function` calls, under unique names while the model is
    made only.

    Args:
        function: Takes one tensor for each of `inputs`.
        inputs: Symbolic tensors, whose shapes and dtypes count.
        name: Name of the model.

    Raises:
        TypeError, ValueError: What `function` raises on symbolic tensors; anything that it raises may come out.
    """
    fresh = [keras.Input(batch_shape=t.shape, dtype=t.dtype, name=f"input_{i}") for i, t in enumerate(inputs)]
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
        operation, index, _ = waiting.pop()._keras_history
        node = operation._inbound_nodes[index]
        if id(node) in seen:
            continue
        seen.add(id(node))
        found[id(operation)] = operation
        waiting += node.input_tensors
    return list(found.values())


def as_graph(model: keras.Model, data: Any = None) -> keras.Model:
    """A model as a Functional one: a subclassed model becomes the only layer of it.

    Raises:
        ValueError: For a subclassed model that has not kept the shape of its inputs.
    """
    if parts.is_graph(model):
        return model
    shapes = getattr(model, "_build_shapes_dict", None)
    if not shapes:
        raise ValueError(
            "Expected a subclassed model that knows the shape of its inputs: call it once on data, "
            f"`model(x)`. Received: {model.name!r}, which was only built."
        )
    dtypes = iter(_dtypes(data))
    numbers = itertools.count()

    def make(shape: Any) -> Any:
        number = next(numbers)
        name = "inputs" if number == 0 else f"inputs_{number}"
        return keras.Input(batch_shape=(None, *shape[1:]), dtype=next(dtypes, "float32"), name=name)

    inputs = {key.removesuffix("_shape"): keras.tree.map_shape_structure(make, shape) for key, shape in shapes.items()}
    if len(inputs) == 1:
        (structure,) = inputs.values()
        return keras.Model(structure, model(structure), name=model.name)
    return keras.Model(list(inputs.values()), model(**inputs), name=model.name)


def _dtypes(data: Any) -> list[str]:
    """Dtypes of the first arrays of representative data, where that can be seen without using it up."""
    arrays = data.values() if isinstance(data, dict) else data if isinstance(data, (list, tuple)) else [data]
    return [str(a.dtype) for a in arrays if isinstance(a, np.ndarray) and a.dtype.kind in "if"]
