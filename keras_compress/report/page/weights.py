"""The weights of a model before compression, and what its file holds of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_compress.convert.compressed import expand_content
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph
from keras_compress.graph.model import inner, slots_in
from keras_compress.report.page.distribution import distribution
from keras_compress.report.summary import ModelSummary
from keras_compress.tflite.flatbuffer import Graph, read_model
from keras_compress.tflite.inspection import inspect_tflite

# What conversion makes of one layer has its name and one of these.
_PARTS = ".linear"


def weight_rows(content: bytes, overview: ModelSummary | None, original: keras.Model | None) -> list[dict[str, Any]]:
    """One row for each weight of a file, as read back from it.

    Args:
        content: The `.tflite` file.
        overview: Summary of the model that it was converted from, which tells transforms and multiplications.
        original: The model before compression, whose weights are shown beside; the weights of a layer are found by the
            layer's name.

    Returns:
        Mappings with `name`, `operator`, `shape`, `type`, `storage`, `bytes`, `elements`, `sparsity`, `distinct`,
        `scales`, `transforms` and `macs` (`None` where not known), and the distributions `before` (`None` without an
        original of that name) and `stored`.
    """
    stored = _stored(content)
    before = _trained(original)
    facts = {} if overview is None else {_key(row.path, row.slot): row for row in overview.rows}
    rows = []
    for weight in inspect_tflite(content).weights:
        name = next((key for key in _names(weight.name) if key in facts or key in before), weight.name)
        known = facts.get(name)
        values = before.get(name)
        rows.append(
            {
                "name": name.replace(".", "/"),
                "operator": weight.op,
                "shape": list(weight.shape),
                "type": weight.dtype,
                "storage": weight.storage,
                "bytes": weight.bytes,
                "elements": weight.elements,
                "sparsity": weight.sparsity,
                "distinct": weight.distinct_values,
                "scales": weight.scale_count,
                "transforms": [] if known is None else list(known.transforms),
                "macs": None if known is None else known.macs,
                "before": None if values is None or not np.isfinite(values).all() else distribution(values),
                "stored": distribution(stored[weight.name]) if weight.name in stored else None,
            }
        )
    return rows


def _names(tensor: str) -> Iterator[str]:
    """`layer/slot` that a tensor may stand for: its own name, and without what conversion added."""
    layer, _, slot = tensor.rpartition("/")
    yield _key(layer, slot)
    yield _key(layer.removesuffix(_PARTS), slot)


def _stored(content: bytes) -> dict[str, NDArray[Any]]:
    """Tensor -> its values in the file, decoded."""
    plain = Graph(read_model(expand_content(content)))
    found = {}
    for number in range(len(plain.tensors)):
        if plain.is_constant(number) and len(plain.shape(number)) > 1:
            values = plain.constant(number)
            if values is not None:
                found[plain.name(number)] = values
    return found


def _key(layer: str, slot: str) -> str:
    """A weight by its layer's path and its slot, as conversion writes them."""
    return f"{layer.replace('/', '.')}/{slot}"


def _trained(model: keras.Model | None) -> dict[str, NDArray[Any]]:
    """`layer/slot` -> the weight that the layer sees."""
    found = {}
    for path, layer in graph.walk(model) if model is not None else ():
        for slot in slots_in(layer):
            wrapped = isinstance(layer, Compressed) and slot.name in layer.transforms
            values = layer.weight(slot.name) if wrapped else slot.variable(inner(layer))
            found[_key(path, slot.name)] = ops.convert_to_numpy(values)
    return found
