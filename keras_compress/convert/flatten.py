"""One flat graph in which every layer is called once: what freezing and exporting work on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from keras_compress.convert import expand  # noqa: F401  (fills the table of expansions)
from keras_compress.convert.expand.activations import PointwiseFunction
from keras_compress.convert.expand.emitter import Emitter
from keras_compress.convert.lstm.form import RecurrentForm
from keras_compress.data.samples import first_of
from keras_compress.graph import graph
from keras_compress.graph.input_points import input_points_apart
from keras_compress.graph.trace import as_graph as as_graph


@dataclass(frozen=True)
class Flat:
    """A flat model and what was taken apart in it.

    Attributes:
        model: Functional model without nested models; a private copy.
        expanded: Names of the layers that came out of a layer or model of the user's that was taken apart.
        notes: What was chosen for recurrent layers.
        without_operator: Why some of them can only be unrolled.
    """

    model: keras.Model
    expanded: frozenset[str]
    notes: tuple[str, ...] = ()
    without_operator: tuple[str, ...] = ()


def flatten(
    model: keras.Model,
    data: Any = None,
    recurrent: RecurrentForm | None = None,
    mode: str = "int8",
    measures: bool = False,
) -> Flat:
    """A copy of a model with nested models put in line and a layer of its own for every call.

    Layers are named by their path, `encoder.conv1`; the second call of a layer becomes `conv1.call1`. Layers without
    a kernel of their own are expanded, subclassed models and layers are traced; layers that do nothing in inference
    are left out.

    Args:
        model: Built model.
        data: Representative data, which tells the dtype of a subclassed model's inputs.
        recurrent: How recurrent layers are to be computed: unrolled by default.
        mode: `"int8"`, `"16x8"` or `"dynamic"`, which refusals name.
        measures: Whether all ranges, of 8 bits, will come from data.

    Raises:
        ValueError: For a layer that cannot be taken apart, by path.
    """
    emitter = Emitter(recurrent, mode, measures)
    flat = graph.Rebuild(emitter.visit, flat=True).model(input_points_apart(as_graph(model, first_of(data))))
    return Flat(flat, frozenset(emitter.made), tuple(emitter.notes), tuple(emitter.without_operator))


def factors_of(flat: keras.Model) -> dict[str, PointwiseFunction]:
    """Reciprocals that are multiplied with something, and read by nothing else, by name."""
    table = graph.consumers(flat)
    found = {}
    for node in graph.nodes(flat):
        readers = [r.operation for t in node.outputs for r in table.get(id(t), [])]
        is_reciprocal = getattr(node.operation, "function", None) in ("rsqrt", "reciprocal")
        used = bool(readers) and all(type(reader).__name__ == "Multiply" for reader in readers)
        if isinstance(node.operation, PointwiseFunction) and is_reciprocal and used:
            found[node.operation.name] = node.operation
    return found
