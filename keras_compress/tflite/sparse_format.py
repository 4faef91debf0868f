"""TFLite's own form of sparse tensors: stored values in order, and tables that tell where each belongs.

Axes are walked in `traversal_order`, from the outermost on; an axis cut into blocks comes twice, as the number of the
block and, under a number beyond the last axis, as the place in it. A dense axis has all its indices. One in CSR has,
for each way to its position, the indices that are stored: `indices[segments[i]:segments[i + 1]]`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

_DENSE, _CSR = schema.DimensionType.DENSE, schema.DimensionType.SPARSE_CSR
# Type of a table of indices -> the schema's class; the smallest that holds the numbers is written.
_VECTORS = (
    (np.dtype(np.uint8), schema.SparseIndexVector.Uint8Vector, schema.Uint8VectorT),
    (np.dtype("<u2"), schema.SparseIndexVector.Uint16Vector, schema.Uint16VectorT),
    (np.dtype("<i4"), schema.SparseIndexVector.Int32Vector, schema.Int32VectorT),
)


def has_blocks(values: NDArray[Any], block: int) -> bool:
    """Whether the last axis can be cut into blocks of this many values."""
    return values.ndim >= 2 and values.shape[-1] % block == 0 and values.size > 0


def kept_blocks(values: NDArray[Any], block: int) -> NDArray[np.bool_]:
    """Which blocks of consecutive values of the last axis hold anything but zeros.

    Args:
        values: Shape `(..., n)`, `n` a multiple of `block`.
        block: Values in a block.

    Returns:
        Shape `(..., n / block)`.
    """
    blocks = values.reshape(*values.shape[:-1], -1, block)
    return np.asarray((blocks != 0).any(axis=-1))


def encode(values: NDArray[Any], block: int = 1) -> tuple[NDArray[Any], Any]:
    """Leave out blocks of zeros along the last axis: `(outputs, inputs)` of a dense layer's weight, OHWI of a 1x1 one.

    Where all values are zeros, the first block is kept: what has no bytes in a file is no constant to a runtime.

    Args:
        values: Any type, at least two axes; `n` of the last is a multiple of `block`.
        block: Consecutive values that are kept or left out together.

    Returns:
        The values that are stored, flat, and the schema's `SparsityParametersT`.

    Raises:
        ValueError: For a last axis that cannot be cut into such blocks.

    >>> import numpy as np
    >>> stored, tables = encode(np.array([[0, 0, 1, 2], [0, 0, 0, 0], [3, 0, 0, 4]]), block=2)
    >>> stored.tolist(), tables.dimMetadata[1].arraySegments.values.tolist()
    ([1, 2, 3, 0, 0, 4], [0, 1, 1, 3])
    """
    if not has_blocks(values, block):
        raise ValueError(
            f"Expected a last axis that is a multiple of {block}, of two axes or more. Received: shape {values.shape}"
        )
    kept = kept_blocks(values, block).reshape(-1, values.shape[-1] // block)
    kept[0, 0] |= not kept.any()
    parameters = schema.SparsityParametersT()
    axes = [_dense_axis(size) for size in values.shape[:-1]]
    axes.append(_csr_axis(kept))
    parameters.traversalOrder = np.arange(values.ndim + (block > 1), dtype=np.int32)
    # TensorFlow writes it where there are no blocks, too.
    parameters.blockMap = np.array([values.ndim - 1] if block > 1 else [], np.int32)
    if block > 1:
        axes.append(_dense_axis(block))
    parameters.dimMetadata = axes
    return values.reshape(*kept.shape, block)[kept].reshape(-1), parameters


def _dense_axis(size: int) -> Any:
    axis = schema.DimensionMetadataT()
    axis.format, axis.denseSize = _DENSE, size
    return axis


def _csr_axis(kept: NDArray[np.bool_]) -> Any:
    axis = schema.DimensionMetadataT()
    axis.format = _CSR
    segments = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    axis.arraySegmentsType, axis.arraySegments = _vector(segments)
    axis.arrayIndicesType, axis.arrayIndices = _vector(np.nonzero(kept)[1])
    return axis


def _vector(numbers: NDArray[Any]) -> tuple[int, Any]:
    largest = int(numbers.max(initial=0))
    dtype, kind, made = next(entry for entry in _VECTORS if largest <= np.iinfo(entry[0]).max)
    vector = made()
    vector.values = numbers.astype(dtype)
    return kind, vector


def decode(stored: NDArray[Any], parameters: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """The dense tensor of stored values, in any order of axes and blocks that the schema can tell.

    Args:
        stored: Flat values.
        parameters: `SparsityParametersT`.
        shape: Of the dense tensor.

    Raises:
        ValueError: For tables that do not fit together or the values.
    """
    try:
        return _decoded(stored, parameters, shape)
    except (IndexError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"Expected tables of a sparse tensor of shape {shape}. Received: damaged ones ({error})"
        ) from None


def _decoded(stored: NDArray[Any], parameters: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    rank = len(shape)
    order = [int(axis) for axis in parameters.traversalOrder]
    block_map = [int(axis) for axis in (parameters.blockMap if parameters.blockMap is not None else ())]
    if sorted(order) != list(range(rank + len(block_map))) or any(not 0 <= axis < rank for axis in block_map):
        raise ValueError(
            f"Expected each axis once. Received: order {order} and blocks of {block_map} for shape {shape}"
        )
    if len(parameters.dimMetadata) != len(order):
        raise ValueError(f"Expected {len(order)} axes in the tables. Received: {len(parameters.dimMetadata)}")
    size_of_block = dict.fromkeys(range(rank), 1)
    for axis, metadata in zip(order, parameters.dimMetadata, strict=True):
        if axis >= rank:
            size_of_block[block_map[axis - rank]] *= int(metadata.denseSize)
    # The place of each stored value in the dense tensor, axis after axis.
    place = np.zeros(1, np.int64)
    stride = [math.prod(shape[axis + 1 :]) for axis in range(rank)]
    for axis, metadata in zip(order, parameters.dimMetadata, strict=True):
        step = stride[axis] * size_of_block[axis] if axis < rank else stride[block_map[axis - rank]]
        ways, indices = _indices(metadata, len(place), stored.size)
        place = place[ways] + indices * step
    dense = np.zeros(math.prod(shape), stored.dtype)
    if place.size != stored.size or (place.size and not 0 <= place.min() <= place.max() < dense.size):
        raise ValueError(f"Expected {stored.size:,} places in a tensor of shape {shape}. Received: {place.size:,}")
    dense[place] = stored
    return dense.reshape(shape)


def _indices(metadata: Any, ways: int, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each index of an axis that is walked: the way that leads to it, and the index."""
    if metadata.format == _DENSE:
        size = int(metadata.denseSize)
        # An axis inside of one in CSR cannot have more places than there are values; outside, it has rows without any.
        if size < 0 or ways * size > max(most, 1) * max(size, 1) + (1 << 28):
            raise ValueError(f"Expected no more than {most:,} values. Received: an axis of {size:,} indices")
        return np.repeat(np.arange(ways), size), np.tile(np.arange(size), ways)
    segments = np.asarray(metadata.arraySegments.values, np.int64)
    indices = np.asarray(metadata.arrayIndices.values, np.int64)
    counts = np.diff(segments)
    if segments.size != ways + 1 or segments[0] != 0 or counts.min(initial=0) < 0 or segments[-1] != indices.size:
        raise ValueError(
            f"Expected {ways + 1:,} segments up to {indices.size:,}. Received: {segments.size:,} other ones"
        )
    return np.repeat(np.arange(ways), counts), indices


def block_of(parameters: Any) -> int:
    """Values of a block along the last axis; 1 where single values are stored or left out."""
    blocks = parameters.blockMap if parameters.blockMap is not None else ()
    return int(parameters.dimMetadata[-1].denseSize) if len(blocks) == 1 and parameters.dimMetadata else 1


def table_bytes(parameters: Any) -> int:
    """Bytes of segments and indices."""
    vectors = [
        v for axis in parameters.dimMetadata or () for v in (axis.arraySegments, axis.arrayIndices) if v is not None
    ]
    return sum(np.asarray(vector.values).nbytes for vector in vectors)
