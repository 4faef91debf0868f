"""One flat graph in which every layer is called once: what freezing and exporting work on."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_compress.convert import expand  # noqa: F401  (fills the table of expansions)
from keras_compress.convert.expand.emitter import Emitter
from keras_compress.core import graph
from keras_compress.core.input_points import input_points_apart


@dataclass(frozen=True)
class Flat:
    """A flat model and what was taken apart in it.

    Attributes:
        model: Functional model without nested models; a private copy.
        expanded: Names of the layers that came out of a layer or model of the user's that was taken apart.
    """

    model: keras.Model
    expanded: frozenset[str]


def flatten(model: keras.Model, data: Any = None) -> Flat:
    """A copy of a model with nested models put in line and a layer of its own for every call.

    Layers are named by their path, `encoder.conv1`; the second call of a layer becomes `conv1.call1`. Layers without
    a kernel of their own are expanded, subclassed models and layers are traced; layers that do nothing in inference
    are left out.

    Args:
        model: Built model.
        data: Representative data, which tells the dtype of a subclassed model's inputs.

    Raises:
        ValueError: For a layer that cannot be taken apart, by path.
    """
    emitter = Emitter()
    flat = graph.Rebuild(emitter.visit, flat=True).model(input_points_apart(as_graph(model, data)))
    return Flat(flat, frozenset(emitter.made))


def as_graph(model: keras.Model, data: Any = None) -> keras.Model:
    """A model as a Functional one: a subclassed model becomes the only layer of it.

    Raises:
        ValueError: For a subclassed model that has not kept the shape of its inputs.
    """
    if graph.is_graph(model):
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
