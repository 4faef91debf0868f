"""What the frozen model tells the integer lowering: exact constants and activation parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from keras_compress.convert.lstm.integers import LstmIntegers

MODES = ("float32", "float16", "dynamic", "int8", "16x8")
IO_TYPES = ("float32", "int8", "uint8", "int16")


def fingerprint(values: NDArray[np.float32]) -> str:
    """SHA-1 of a float32 array's bytes: how a weight is found again in the flatbuffer."""
    return hashlib.sha1(np.ascontiguousarray(values, dtype=np.float32).data).hexdigest()


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
        """The float32 values that travel through the float flatbuffer."""
        shape = [1] * self.values.ndim
        shape[self.quantized_dimension] = -1
        scale = self.scale.reshape(shape) if self.scale.size > 1 else self.scale.reshape(())
        return np.multiply(self.values, scale, dtype=np.float32, casting="unsafe")


@dataclass(frozen=True)
class ActivationPoint:
    """A place where the device holds integers: `real = scale * (integer - zero_point)`.

    Attributes:
        name: Path of the Keras layer that stands at this place; names the tensor in the file.
        scale: Positive step, a float32 value.
        zero_point: Integer that stands for 0.0 (0 for 16-bit activations).
        bits: Storage width, 8 or 16.
        lowest: Lowest integer that may occur, where it is above the lowest of the storage type: a signed activation of
            fewer bits. `None` for no limit.
    """

    name: str
    scale: float
    zero_point: int
    bits: int = 8
    lowest: int | None = None


@dataclass(frozen=True)
class LoweringPlan:
    """Everything the lowering puts into the file.

    Attributes:
        mode: One of `MODES`.
        io: One of `IO_TYPES`: type of the model's inputs and outputs.
        weights: `fingerprint(grid.floats())` -> grid.
        points: Marker ID (1, 2, ...) -> activation point.
        target: `"litert"` or `"tflm"`: where two exact forms exist, the one that this runtime runs better.
        unpacked: Name of a weight that is stored as int8 -> why not in fewer bits, where there is a reason to give.
        lstms: `fingerprint` of the matrix that stands for an LSTM -> its name and its integers.
    """

    mode: str = "int8"
    io: str = "float32"
    weights: Mapping[str, ConstantGrid] = field(default_factory=dict)
    points: Mapping[int, ActivationPoint] = field(default_factory=dict)
    target: str = "litert"
    unpacked: Mapping[str, str] = field(default_factory=dict)
    lstms: Mapping[str, tuple[str, LstmIntegers]] = field(default_factory=dict)
