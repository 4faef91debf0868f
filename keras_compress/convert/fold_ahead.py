"""A normalization that no layer before it can take in, taken in by the layers with weights behind it.

On the device it would be a layer of its own, whose outputs are rounded to 8 bits once more.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.convert.fold import Affine, affine_of
from keras_compress.core import batch_norm, keras_private
from keras_compress.core.existing import existing
from keras_compress.graph import graph
from keras_compress.graph.configuration import configuration
from keras_compress.quantizers.placement import reader_of

Node = Any
_TAKES = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D)
# The largest weight of a channel, over its root mean square. Weights are rounded to a 127th of the largest one, inputs
# to as much of their largest value, which is some four standard deviations: a channel with no larger peak is rounded no
# more than its inputs are.
LARGEST_PEAK = 4.0


def fold_ahead(flat: keras.Model) -> keras.Model:
    """The same function without normalizations whose readers all take them in.

    Weights with a grid or a codebook of their own, and those that factors of many sizes would make coarse, stay.

    Args:
        flat: Flat model; a private copy, whose layers go into the new one.

    Returns:
        The model itself where there is nothing to fold.
    """
    table = graph.consumers(flat)
    outputs = {id(tensor) for tensor in graph.functional(flat).outputs}
    folded: set[int] = set()
    weighted: dict[int, keras.layers.Layer] = {}
    for node in graph.nodes(flat):
        if not _is_left(node, flat, table) or id(node.outputs[0]) in outputs:
            continue
        norm, readers = affine_of(node.operation), table.get(id(node.outputs[0]), [])
        layers = [_taking(reader.operation, norm, reader.input_tensors[0].shape) for reader in readers]
        if layers and all(layer is not None for layer in layers):
            folded.add(id(node))
            weighted.update({id(reader): layer for reader, layer in zip(readers, layers, strict=True)})

    def visit(call: graph.Call) -> Any:
        if id(call.node) in folded:
            return call.args[0]
        return call.again(weighted.get(id(call.node)))

    return graph.Rebuild(visit, flat=True).model(flat) if folded else flat


def _is_left(node: Node, flat: keras.Model, table: dict[int, list[Node]]) -> bool:
    """Whether a call is a normalization of the last axis that the layer before it does not take in."""
    norm = node.operation
    if not isinstance(norm, keras.layers.BatchNormalization) or not batch_norm.over_last_axis(norm):
        return False
    before = keras_private.call_node(node.input_tensors[0])
    while type(before.operation).__name__ in ("Reshape", "Permute"):
        before = keras_private.call_node(before.input_tensors[0])
    return reader_of(before, flat, table) is not node or not batch_norm.foldable(before.operation, norm)


def _taking(layer: Any, norm: Affine, shape: tuple[int | None, ...]) -> keras.layers.Layer | None:
    """A layer that does both; `None` where it cannot, or where that would cost more than it saves."""
    if (
        type(layer) not in _TAKES
        or getattr(layer, "groups", 1) != 1
        or getattr(layer, "data_format", "") == "channels_first"
    ):
        return None
    pads = getattr(layer, "padding", "valid") != "valid" and max(layer.kernel_size) > 1
    kernel = np.asarray(layer.kernel, np.float64)
    if (pads and norm.offset.any()) or existing(np.asarray(layer.kernel), (-1,)).values:
        return None
    taken = kernel * norm.factor[:, None]
    if np.any(_peaks(taken) > np.maximum(_peaks(kernel) * 1.01, LARGEST_PEAK)):
        return None
    bias = (kernel * norm.offset[:, None]).sum(axis=tuple(range(kernel.ndim - 1)))
    with configuration(layer) as config:
        made = type(layer).from_config({**config, "use_bias": True, "kernel_initializer": "zeros"})
    made.build(shape)
    made.kernel.assign(taken)
    made.bias.assign(bias + np.asarray(layer.bias) if layer.use_bias else bias)
    return made


def _peaks(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each output channel: its largest weight over their root mean square."""
    axes = tuple(range(kernel.ndim - 1))
    squares = np.square(kernel).mean(axis=axes)
    peaks: NDArray[np.float64] = np.abs(kernel).max(axis=axes) / np.sqrt(np.where(squares > 0, squares, 1.0))
    return peaks
