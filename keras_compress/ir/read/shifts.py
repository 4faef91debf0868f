"""Channels that are moved by whole pixels: the quickest operators for it, see `docs/compact_blocks.md`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.ir.graph import Tensor
from keras_compress.ir.read.reader import Reader
from keras_compress.ir.read.shapes import sliced
from keras_compress.ir.read.table import reads
from keras_compress.tflite.grids import ConstantGrid

# TFLite-Micro copies slices 6 to 10 times as fast as its reference kernel multiplies by 0 and 1; with many slices their
# tensors take more memory than the time is worth.
MOST_SLICES = 16
Moves = NDArray[np.int64]


@reads("Shift", "ActiveShift")
def shift(reader: Reader, layer: Any, inputs: Tensor) -> Any:
    """On LiteRT a DEPTHWISE_CONV_2D with one 1 for each channel; on TFLite-Micro slices of the padded image."""
    if inputs.dtype != "float32":
        return NotImplemented
    moves: Moves = layer.whole_pixels_moved()
    if not moves.any():
        return inputs
    grid = reader.grid(inputs)
    ends = [*np.flatnonzero((moves[1:] != moves[:-1]).any(axis=1)) + 1, len(moves)]
    in_slices = reader.target == "tflm" and len(ends) <= MOST_SLICES
    # A convolution has to know whose integers it reads.
    if in_slices or (grid is None and reader.follows is not None):
        return _by_slices(reader, inputs, moves, [int(end) for end in ends])
    made = _by_ones(reader, inputs, moves, whole=grid is not None)
    if grid is not None and reader.follows is None:
        reader.build.put_on_grid(made, grid)
    return made


def _by_ones(reader: Reader, inputs: Tensor, moves: Moves, whole: bool) -> Tensor:
    reach, channels = int(np.abs(moves).max()), len(moves)
    ones = np.zeros((1, 2 * reach + 1, 2 * reach + 1, channels), np.int8)
    ones[0, moves[:, 0] + reach, moves[:, 1] + reach, np.arange(channels)] = 1
    # The integers times 1, on the grid that they are on: the multiplier is 1, exactly.
    scale, axis = (np.ones(channels, np.float32), 3) if channels > 1 else (np.ones(1, np.float32), 0)
    kernel = ConstantGrid(f"{reader.build.path}/ones", ones, scale, axis) if whole else ones.astype(np.float32)
    settings = {"stride_h": 1, "stride_w": 1, "dilation_h_factor": 1, "dilation_w_factor": 1}
    zeros = np.zeros(channels, np.float32)
    return reader.add("DEPTHWISE_CONV_2D", inputs, kernel, zeros, padding="SAME", depth_multiplier=1, **settings)


def _by_slices(reader: Reader, inputs: Tensor, moves: Moves, ends: list[int]) -> Tensor:
    _, height, width, _ = inputs.shape
    before = np.maximum(-moves.min(axis=0), 0)
    behind = np.maximum(moves.max(axis=0), 0)
    around = [(0, 0), *zip(before.tolist(), behind.tolist(), strict=True), (0, 0)]
    padded = reader.add("PAD", inputs, np.array(around, np.int32))
    parts, start = [], 0
    for end in ends:
        top, left = (moves[start] + before).tolist()
        keys = [slice(None), slice(top, top + height), slice(left, left + width), slice(start, end)]
        parts.append(sliced(reader, padded, keys))
        start = end
    return parts[0] if len(parts) == 1 else reader.add("CONCATENATION", *parts, axis=3)
