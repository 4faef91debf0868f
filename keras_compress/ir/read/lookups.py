"""Tables: an embedding's rows, and functions of the 256 values of an int8 tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_compress.ir.graph import Tensor
from keras_compress.ir.read.reader import Reader
from keras_compress.ir.read.table import reads
from keras_compress.tflite.grids import Grid


@reads("Rows")
def rows(reader: Reader, layer: Any, inputs: Tensor) -> Any:
    """GATHER by int32 numbers."""
    numbers = inputs
    if inputs.dtype != "int32":
        numbers = reader.add("CAST", inputs, dtype="int32", in_data_type=inputs.dtype, out_data_type="int32")
    return reader.add("GATHER", reader.kernel(layer), numbers)


@reads("Present")
def present(reader: Reader, layer: Any, inputs: Tensor) -> Any:
    """A look-up in the 256 values of an int8 tensor."""
    grid = reader.grid(inputs)
    return looked_up(reader, layer, inputs) if grid is not None and grid.bits == 8 else NotImplemented


@reads("PresentToken")
def present_token(reader: Reader, layer: Any, inputs: Tensor) -> Any:
    """0 stays 0, and greater numbers become 1: rows of a table of two."""
    numbers = inputs
    if inputs.dtype != "int32":
        numbers = reader.add("CAST", inputs, dtype="int32", in_data_type=inputs.dtype, out_data_type="int32")
    table = np.array([1.0, 0.0] if layer.inverted else [0.0, 1.0], np.float32)
    return reader.add("GATHER", table, reader.add("MINIMUM", numbers, np.array(1, np.int32)))


def looked_up(reader: Reader, layer: Any, inputs: Tensor) -> Tensor:
    """A function of an int8 tensor, as the values that the point behind it takes.

    CAST, ADD and GATHER: the cast is that of the int8 itself, not of the real number that it stands for, and says so.
    A clip to the ends of its input's integers changes none of them, and is no operator.
    """
    grid, point = reader.grid(inputs), reader.follows
    if grid is None or point is None:
        raise ValueError(f"Expected an activation point before and behind a table. Received: {layer.name!r}")
    values = table_of(layer, grid.scale, grid.zero_point)
    rounded = np.asarray(ops.convert_to_numpy(point(values)), np.float32)
    same_grid = (point.scale, point.zero_point, point.bits) == (grid.scale, grid.zero_point, grid.bits)
    if same_grid and np.array_equal(rounded, _values_of(grid)):
        return inputs
    number = reader.add("CAST", inputs, dtype="int32", in_data_type="int8", out_data_type="int32")
    place = reader.add("ADD", number, np.array(128, np.int32))
    return reader.add("GATHER", rounded, place)


def table_of(layer: Any, scale: float, zero_point: int) -> NDArray[np.float32]:
    """What the function gives for the 256 numbers of an int8 tensor, from -128 up."""
    return np.asarray(ops.convert_to_numpy(layer(_values_of(Grid(scale, zero_point, 8)))))


def _values_of(grid: Grid) -> NDArray[np.float32]:
    values: NDArray[np.float32] = np.float32(grid.scale) * (
        np.arange(-128, 128, dtype=np.float32) - np.float32(grid.zero_point)
    )
    return values
