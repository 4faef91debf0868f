"""The grids of masks, and of what is multiplied with them: see `keras_compress.convert.expand.masks`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras_compress.convert.expand.masks import Gate, Present, PresentToken
from keras_compress.convert.final_grid import as_float32
from keras_compress.graph import graph
from keras_compress.quantizers.activation import FixedGrid


def masked_grid(call: graph.Call, grid_of: Callable[[Any], FixedGrid | None]) -> FixedGrid | None:
    """The grid of 0 and 1, of what they are multiplied with, or that of both terms of a sum."""
    if isinstance(call.operation, Present):
        return FixedGrid(as_float32(1 / 255), -128)
    first, second = (grid_of(tensor) for tensor in call.args[0])
    if isinstance(call.operation, Gate) or first is None or second is None:
        return first
    return first if (first.scale, first.zero_point) == (second.scale, second.zero_point) else None


def table_of_16_bits(layer: Present) -> FixedGrid:
    """The grid of 0 and 1 as rows of a table, which are int8 there too."""
    if not isinstance(layer, PresentToken):
        raise ValueError(
            "Expected mode='int8' for the mask of a Masking layer: integers of 16 bits have no table of all values. "
            f"Received: {layer.name!r} with 16-bit activations; an Embedding with mask_zero=True has both modes."
        )
    return FixedGrid(as_float32(1 / 127), 0)
