"""What freezing knows of each tensor of the new graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.convert.kernel_rounding import TwiceRoundedGrid
from keras_compress.core import keras_private
from keras_compress.quantizers.activation import FixedGrid
from keras_compress.quantizers.kinds import activation_name

_SUMS = ("Add", "Subtract")


@dataclass
class Known:
    """What is known of a tensor; nothing at first.

    Attributes:
        grid: Of the integers that it holds.
        ahead: Grid of the point that it is only moved to, which it is on already.
        fixed: Grid that its kernel writes on, whatever range training saw behind it.
        table: Grid of the table whose rows it holds.
        sums: Of a layer with weights: input scale, and weight scale of each channel. Of a product: the factors' scales.
        summands: Of a sum or difference of two tensors, and of a ReLU of one: their scales.
        mean: Over positions: input scale, and how many values each is the mean of.
        finest: Finest steps that its kernel writes.
        steps: Lowest and highest multiple of its grid's scale that it holds.
        lattice: Of a sum of tensors on one scale: that scale, lowest and highest multiple.
        moved: Of a kernel's output that was reshaped or permuted: the tensor before that, and the layer that did it.
        is_sign: Whether its sums are never 0, so that a kernel's saturation gives their signs.
        is_average: Whether it is an average on the grid of what it is the average of.
        width: Bits of the integers of the call that made it.
    """

    grid: FixedGrid | None = None
    ahead: FixedGrid | None = None
    fixed: FixedGrid | None = None
    table: FixedGrid | None = None
    sums: tuple[float, NDArray[np.float32]] | None = None
    summands: tuple[float, float] | None = None
    mean: tuple[float, int] | None = None
    finest: float | None = None
    steps: tuple[int, int] | None = None
    lattice: tuple[float, int, int] | None = None
    moved: tuple[Any, keras.layers.Layer] | None = None
    is_sign: bool = False
    is_average: bool = False
    width: int = 8

    @property
    def written(self) -> FixedGrid | None:
        """The grid that it gets whatever a point behind it says."""
        return self.ahead or self.fixed or self.table

    @property
    def step(self) -> Any:
        """Between two values that it can have, at the most: a finer grid has nothing to hold."""
        if self.sums is not None:
            return max(self.sums[1]) * self.sums[0]
        return None if self.mean is None else self.mean[0] / self.mean[1]

    def carry(self, target: Known) -> None:
        """Say of a tensor with the same values, moved, what moving them does not change."""
        target.grid = self.grid or target.grid
        target.steps = self.steps or target.steps
        target.finest = self.finest or target.finest
        target.ahead = self.ahead or target.ahead

    def on_tflm(self, grid: FixedGrid) -> FixedGrid:
        """A grid as TFLite-Micro rounds to it, which is twice behind sums and means, and from one grid to another."""
        if grid.bits == 8 and self.sums is not None:
            return TwiceRoundedGrid.behind(grid, *self.sums)
        if grid.bits == 8 and self.mean is not None:
            return TwiceRoundedGrid.behind_mean(grid, *self.mean)
        if grid.bits == 8 and self.summands is not None:
            return TwiceRoundedGrid.behind_sum(grid, self.summands)
        if grid.bits == 8 and self.grid is not None and self.grid.scale != grid.scale:
            return TwiceRoundedGrid.behind(grid, self.grid.scale, np.ones(1))
        return grid


class KnownTensors:
    """A record for each Keras tensor; of constants and lists nothing is known."""

    def __init__(self) -> None:
        self._records: dict[Any, Known] = {}

    def __getitem__(self, tensor: Any) -> Known:
        """The tensor's record, which may be added to."""
        if not isinstance(tensor, keras.KerasTensor):
            return Known()
        if tensor not in self._records:
            self._records[tensor] = Known(summands=self._summands(tensor))
        return self._records[tensor]

    def _summands(self, tensor: keras.KerasTensor) -> tuple[float, float] | None:
        """Scales of the two 8-bit tensors that it is the sum or the difference of."""
        operation = keras_private.maker(tensor)
        clips = activation_name(operation) == "relu"
        if not clips and type(operation).__name__ not in _SUMS:
            return None
        known = [self[made] for made in keras_private.call_node(tensor).input_tensors]
        if clips:
            # The kernel that adds does it; a ceiling would be no whole number of the sum's steps.
            return known[0].summands
        grids = [each.grid for each in known if each.grid is not None and each.grid.bits == 8]
        return (grids[0].scale, grids[1].scale) if len(grids) == len(known) == 2 else None
