"""Which real numbers the integers of a tensor stand for: activations, and constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Grid:
    """`real = scale * (integer - zero_point)` in 8 or 16 signed bits; equal grids compare equal.

    Attributes:
        scale: Positive step, rounded to float32 as the file stores it.
        zero_point: Integer that stands for 0.0; 0 for 16 bits.
        bits: 8 or 16.
    """

    scale: float
    zero_point: int
    bits: int = 8

    def problem(self) -> str | None:
        """What is wrong with the numbers, or None."""
        if not (np.isfinite(self.scale) and self.scale > 0):
            return f"Expected a positive scale. Received: scale={self.scale}"
        if self.bits not in (8, 16):
            return f"Expected bits 8 or 16. Received: bits={self.bits}"
        lowest, highest = (-128, 127) if self.bits == 8 else (0, 0)
        if not lowest <= self.zero_point <= highest:
            return (
                f"Expected zero_point in [{lowest}, {highest}] (bits={self.bits}). "
                f"Received: zero_point={self.zero_point}"
            )
        return None

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

    def put_on(self, graph: Any, tensor: int) -> None:
        """Make `tensor` of a `keras_compress.tflite.flatbuffer.Graph` an integer tensor of this grid."""
        graph.set_type(tensor, self.dtype)
        graph.set_quantization(tensor, np.array([self.scale], np.float32), self.zero_point)


@dataclass(frozen=True)
class ConstantGrid:
    """One weight as the device stores it: `real = scale * values`.

    Attributes:
        name: Keras path of the variable, e.g. `"conv1/kernel"`.
        values: Integers in TFLite layout (conv OHWI, depthwise 1HWC, fully connected OI).
        scale: float32, shape `(1,)` for one scale per tensor or `(channels,)`.
        quantized_dimension: Axis of `values` that `scale` runs along (0 when there is one scale).
        bits: Width the integers fit in, 2 to 8.
        storage_bits: Width they are stored in: 8, or 4 or 2 for packed ones.
    """

    name: str
    values: NDArray[np.int8]
    scale: NDArray[np.float32]
    quantized_dimension: int
    bits: int = 8
    storage_bits: int = 8

    def floats(self) -> NDArray[np.float32]:
        """The real values, float32."""
        shape = [1] * self.values.ndim
        shape[self.quantized_dimension] = -1
        scale = self.scale.reshape(shape) if self.scale.size > 1 else self.scale.reshape(())
        return np.multiply(self.values, scale, dtype=np.float32, casting="unsafe")
