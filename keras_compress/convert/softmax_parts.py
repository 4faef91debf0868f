"""Softmaxes and their logarithms whose values do not fit the grid that their kernels write on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_compress.convert.expand.activations import PointwiseFunction
from keras_compress.convert.final_grid import as_float32
from keras_compress.core.transform import IntegerWeight
from keras_compress.quantizers.activation import FixedGrid
from keras_compress.quantizers.kinds import FIXED_GRIDS_8

Tensor = Any
# `(tensor, grid, name) -> tensor` and `(tensor, integers, name) -> tensor`, which the freezer gives.
OnGrid = Callable[[Tensor, FixedGrid, str], Tensor]
Dense = Callable[[Tensor, IntegerWeight, str], Tensor]
# Of the root of a row's length, for the largest share: from there on the kernel's grid tells shares as well.
MOST_EVEN = 0.5
LOWEST_LOGARITHM = -16.0


def largest_share(grid: FixedGrid, length: int) -> float:
    """What a softmax makes of the highest of its integers at the most: all others in the row are the lowest.

    Args:
        grid: Of the input.
        length: Of a row.
    """
    return float(1.0 / (1.0 + (length - 1) * np.exp(-255 * grid.scale)))


def is_even(grid: FixedGrid, length: int) -> bool:
    """Whether all shares of n are so small that parts with grids of their own tell more of them than the kernel's grid.

    SOFTMAX writes steps of 1 / 256, of which the largest share is off by `1 / 256 / share`; the sum of the parts has
    steps of n / 255, of which its reciprocal is off by `n share / 255`.

    Args:
        grid: Of the input.
        length: Of a row.
    """
    return largest_share(grid, length) * float(np.sqrt(length)) < MOST_EVEN


@dataclass(frozen=True)
class SoftmaxParts:
    """The two functions of the last axis without their kernels' grids, by values below the row's largest, `d`.

    - Shares: `exp(d) / sum(exp(d))`, the powers and the reciprocal from tables, the sum a Dense layer of ones.
    - Logarithms: `d - log(sum(exp(d)))`, where LOG_SOFTMAX gives the second part, its own largest value.

    `d` has the steps of the input, and is exact. All grids follow from that of the input.

    Args:
        grid: Of the input.
        name: Of the layer.
        on_grid: Puts an activation point behind a tensor.
        dense: A Dense layer.
    """

    grid: FixedGrid
    name: str
    on_grid: OnGrid
    dense: Dense

    def shares(self, tensor: Tensor) -> Tensor:
        """The shares, on a grid of their own."""
        length = tensor.shape[-1]
        powers = self._function("exp", self._below_largest(tensor), 1 / 255)
        level = int(np.clip(2**30 // (128 * length), 1, 127))
        ones = IntegerWeight(np.full((length, 1), level, np.int32), np.full((1, 1), 1 / level, np.float32), 8)
        total = self.dense(powers, ones, f"{self.name}.total")
        total = self.on_grid(total, FixedGrid(as_float32(length / 255), -128), f"{self.name}.total_quantized")
        step = largest_share(self.grid, length) / 255
        shares = self._named("Multiply", "product")([powers, self._function("reciprocal", total, step)])
        return self.on_grid(shares, FixedGrid(as_float32(step), -128), f"{self.name}.shares")

    def logarithms(self, tensor: Tensor, kernel: Tensor) -> Tensor:
        """The logarithms, to be put on the output's grid.

        Args:
            tensor: The input.
            kernel: LOG_SOFTMAX of it.
        """
        grid = FixedGrid(*FIXED_GRIDS_8["log_softmax"])
        logarithm = self._largest(self.on_grid(kernel, grid, f"{self.name}.kernel"), grid, "logarithm")
        return self._named("Add", "logarithms")([self._below_largest(tensor), logarithm])

    def _below_largest(self, tensor: Tensor) -> Tensor:
        below = self._named("Subtract", "below")([tensor, self._largest(tensor, self.grid, "largest")])
        return self.on_grid(below, FixedGrid(self.grid.scale, 127), f"{self.name}.below_quantized")

    def _largest(self, tensor: Tensor, grid: FixedGrid, name: str) -> Tensor:
        plain = FixedGrid(grid.scale, grid.zero_point, grid.bits, grid.lowest)
        return self.on_grid(ops.max(tensor, axis=-1, keepdims=True), plain, f"{self.name}.{name}")

    def _function(self, function: str, tensor: Tensor, scale: float) -> Tensor:
        made = PointwiseFunction(function, name=f"{self.name}.{function}")(tensor)
        return self.on_grid(made, FixedGrid(as_float32(scale), -128), f"{self.name}.{function}_quantized")

    def _named(self, merge: str, name: str) -> keras.layers.Layer:
        return getattr(keras.layers, merge)(name=f"{self.name}.{name}")
