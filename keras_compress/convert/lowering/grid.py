"""The grid of integers that an activation tensor lives on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.convert.flatbuffer import Graph
from keras_compress.convert.plan import ActivationPoint


@dataclass(frozen=True)
class Grid:
    """`real = scale * (integer - zero_point)` in 8 or 16 signed bits; equal grids compare equal.

    Attributes:
        scale: Positive step, rounded to float32 as the file stores it.
        zero_point: Integer that stands for 0.0.
        bits: 8 or 16.
    """

    scale: float
    zero_point: int
    bits: int = 8

    @classmethod
    def of_point(cls, point: ActivationPoint) -> Grid:
        """The grid of an activation point.

        Raises:
            ValueError: The scale is not a positive float32, or the zero point or width does not fit.
        """
        scale = float(np.float32(point.scale))
        if not (np.isfinite(scale) and scale > 0):
            raise ValueError(f"Expected a positive scale at {point.name!r}. Received: scale={point.scale}")
        if point.bits not in (8, 16):
            raise ValueError(f"Expected bits 8 or 16 at {point.name!r}. Received: bits={point.bits}")
        lowest, highest = (-128, 127) if point.bits == 8 else (0, 0)
        if not lowest <= point.zero_point <= highest:
            raise ValueError(
                f"Expected zero_point in [{lowest}, {highest}] at {point.name!r} (bits={point.bits}). "
                f"Received: zero_point={point.zero_point}"
            )
        return cls(scale, int(point.zero_point), point.bits)

    @property
    def dtype(self) -> str:
        """Element type in the file."""
        return f"int{self.bits}"

    def quantize(self, values: NDArray[Any]) -> NDArray[Any]:
        """Integers nearest to `values` (half to even), saturated."""
        info = np.iinfo(self.dtype)
        integers = np.rint(values.astype(np.float64) / self.scale) + self.zero_point
        clipped: NDArray[Any] = np.clip(integers, info.min, info.max).astype(self.dtype)
        return clipped

    def put_on(self, graph: Graph, tensor: int) -> None:
        """Make `tensor` an integer tensor of this grid."""
        graph.set_type(tensor, self.dtype)
        graph.set_quantization(tensor, np.array([self.scale], np.float32), self.zero_point)
