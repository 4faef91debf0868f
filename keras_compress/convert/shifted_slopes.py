"""ReActNet's shifted PReLU made of kernels that all runtimes have, and the grid in front of a staircase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.convert import fold
from keras_compress.convert.final_grid import as_float32
from keras_compress.convert.slopes import OnGrid, PerChannel
from keras_compress.core import affine
from keras_compress.quantizers.activation import FixedGrid
from keras_compress.quantizers.rprelu import RPReLU

Tensor = Any
Array = NDArray[Any]


def _grid(low: float, high: float, bits: int) -> FixedGrid:
    wide = bits == 16
    spec = affine.QuantSpec(bits=bits, symmetric=wide, narrow_range=wide)
    scale, zero_point = affine.affine_parameters(np.float32(low), np.float32(high), spec)
    return FixedGrid(as_float32(float(scale)), int(zero_point), bits)


@dataclass(frozen=True)
class ShiftedParts:
    """An RPReLU as the higher or the lower of two lines, or as a line and what is added below its bend.

    - Slopes none of which is above 1: `y = max(x + a, beta x + b)`; none below 1: the minimum. Both lines are on the
      output's grid: each value is rounded once.
    - Slopes on both sides of 1, an output without a grid, and 16 bits, which have no MAXIMUM everywhere: with
      `n = relu(gamma - x)`, `y = (x + a) + (1 - beta) n`.

    Args:
        layer: The layer.
        grid: Of the input.
        written: Of the output, where a point behind tells it.
        name: Of the layer's call.
        on_grid: Puts an activation point behind a tensor.
        per_channel: A 1x1 depthwise convolution.
    """

    layer: RPReLU
    grid: FixedGrid
    written: FixedGrid | None
    name: str
    on_grid: OnGrid
    per_channel: PerChannel

    def __call__(self, tensor: Tensor) -> Tensor:
        """The output; on the output's grid already where that is known."""
        above, slopes, below = self.layer.lines()
        one_sided = (slopes <= 1.0).all() or (slopes >= 1.0).all()
        if self.written is None or self.grid.bits != 8 or self.written.bits != 8 or not one_sided:
            return self._as_sum(tensor, above, slopes)
        upper = self._line(tensor, np.ones_like(slopes), above, self.written, "upper")
        lower = self._line(tensor, slopes, below, self.written, "lower")
        merge = keras.layers.Maximum if (slopes <= 1.0).all() else keras.layers.Minimum
        return merge(name=f"{self.name}.extreme")([upper, lower])

    def _as_sum(self, tensor: Tensor, above: Array, slopes: Array) -> Tensor:
        gamma, rest, bits = np.array(self.layer.gamma, np.float64), 1.0 - slopes, self.grid.bits
        lowest = (self.grid.lowest - self.grid.zero_point) * self.grid.scale
        highest = (2 ** (bits - 1) - 1 - self.grid.zero_point) * self.grid.scale
        furthest = max(float(gamma.max()) - lowest, self.grid.scale)
        whole = _grid(lowest + float(above.min()), highest + float(above.max()), bits)
        upper = self._line(tensor, np.ones_like(slopes), above, whole, "upper")
        then = keras.layers.ReLU(name=f"{self.name}.below_relu")
        beyond = self._line(tensor, -np.ones_like(slopes), gamma, _grid(0.0, furthest, bits), "below", then)
        ends = [0.0, *(furthest * end for end in (rest.min(), rest.max()))]
        added = self._line(beyond, rest, np.zeros_like(rest), _grid(min(ends), max(max(ends), 1e-6), bits), "added")
        return keras.layers.Add(name=f"{self.name}.sum")([upper, added])

    def _line(
        self, tensor: Tensor, slopes: Array, offsets: Array, grid: FixedGrid, name: str, then: Any = None
    ) -> Tensor:
        """`slopes * x + offsets`, on a grid."""
        name = f"{self.name}.{name}"
        made = self.per_channel(name, tensor, fold.standalone(fold.Affine(slopes, offsets)), offsets)
        return self.on_grid(made if then is None else then(made), grid, f"{name}_rounded")
