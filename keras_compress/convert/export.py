"""From a frozen model to the intermediate graph."""

from __future__ import annotations

from dataclasses import dataclass, field

import keras

from keras_compress.convert.float_flatbuffer import input_names, output_names
from keras_compress.convert.islands import Islands
from keras_compress.convert.refusals import check_static_shapes
from keras_compress.data.samples import fixed_batch
from keras_compress.ir.check import check
from keras_compress.ir.fuse import fuse_activations
from keras_compress.ir.fuse_padding import fuse_padding
from keras_compress.ir.fuse_transposes import fuse_transposes
from keras_compress.ir.graph import Graph
from keras_compress.ir.merge_reshapes import merge_reshapes
from keras_compress.ir.order import depth_first
from keras_compress.ir.read import read
from keras_compress.ir.share import share_equal_nodes
from keras_compress.tflite.grids import ConstantGrid
from keras_compress.tflite.storage import INT8, Storage


@dataclass(frozen=True)
class Exported:
    """The graph, and what was not stored as asked.

    Attributes:
        graph: Checked.
        unpacked: Name of a weight that is stored as int8 -> why not in fewer bits, where there is a reason to give.
    """

    graph: Graph
    unpacked: dict[str, str] = field(default_factory=dict)


def export(frozen: keras.Model, storage: Storage = INT8, origin: keras.Model | None = None) -> Exported:
    """The operators that compute a frozen model.

    Args:
        frozen: What `freeze` gave.
        storage: How the weights are stored, and for which runtime.
        origin: The user's model, whose layers an error names.

    Raises:
        ValueError: A dimension other than the batch is not static, or two ranges are wanted on one tensor.
        ConversionError: There are no operators for calls of the model.
    """
    check_static_shapes(frozen)
    unpacked: dict[str, str] = {}

    def stored(operator: str, grid: ConstantGrid) -> int:
        bits, reason = storage.of(operator, grid)
        if reason:
            unpacked[grid.name] = reason
        return bits

    islands = Islands(origin or frozen)
    graph = read(
        frozen,
        input_names(frozen),
        output_names(frozen),
        batch=fixed_batch(frozen) or 1,
        storage=stored,
        island=islands,
        target=storage.target,
    )
    islands.check()
    as_operators(graph)
    return Exported(graph, unpacked)


def as_operators(graph: Graph) -> None:
    """The fewest operators for what was read, in the order in which they are to run; checked."""
    for improve in (share_equal_nodes, merge_reshapes, fuse_padding, fuse_activations, fuse_transposes, depth_first):
        improve(graph)
    check(graph)
