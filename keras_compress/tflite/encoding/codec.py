"""Constants stored compressed and decoded by TFLite-Micro while the model runs: what every codec offers.

The runtime's custom operator `TFLM_DECODE` takes two byte tensors for each constant, the encoded values and an
ancillary tensor (a header of 16 bytes and the codec's tables), and writes the constant into the arena.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
HEADER_BYTES = 16
CODEC_VERSION = 1
_DECODE_VERSION = 1
# Values that are widened to 64 bits at once.
BLOCK = 1 << 18
# Fewer values are sorted: counting them touches every value that there could be.
_SORTED = 512


@dataclass(frozen=True)
class Form:
    """What the file says of a constant apart from its values; DECODE reads some of it.

    Attributes:
        shape: As stored, e.g. conv OHWI.
        dtype: NumPy name of its type, such as `"int8"`.
        scale_count: Number of quantization scales: 0, 1 or the channels.
        dimension: Axis that the scales run along; 0 where there is one scale or none.
        zero_point: Integer that stands for 0.0.
    """

    shape: tuple[int, ...]
    dtype: str = "int8"
    scale_count: int = 1
    dimension: int = 0
    zero_point: int = 0

    @property
    def elements(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def axis_refusal(self) -> str | None:
        """Why LUT and bitmap cannot know the channels of this tensor: they run along its first or its last axis."""
        if self.scale_count == 0 or (self.scale_count == 1 and self.dimension == 0):
            return None
        if self.scale_count == 1:
            return f"its one scale is said to run along axis {self.dimension}, which must be 0"
        if self.dimension not in (0, len(self.shape) - 1):
            return f"its {self.scale_count} scales run along axis {self.dimension} of {self.shape}: not first, not last"
        if self.shape[self.dimension] != self.scale_count:
            return f"it has {self.scale_count} scales for {self.shape[self.dimension]} channels"
        return None


@dataclass(frozen=True)
class Encoded:
    """A constant as a codec stores it.

    Attributes:
        codec: Name of the codec.
        data: The encoded values.
        ancillary: Header and tables.
    """

    codec: str
    data: Bytes
    ancillary: Bytes

    @property
    def bytes(self) -> int:
        """Payload of both tensors."""
        return int(self.data.size + self.ancillary.size)


class Codec(ABC):
    """One way to store a constant. Subclasses register themselves as kind `"codec"`.

    Class attributes:
        name: Name in `weights_storage`.
        type_code: First byte of the ancillary tensor.
        dtypes: Types that the runtime's kernel writes.
    """

    name: str
    type_code: int
    dtypes: tuple[str, ...]

    def refusal(self, values: NDArray[Any], form: Form) -> str | None:
        """Why this constant cannot be stored so; `None` where it can."""
        if form.dtype not in self.dtypes:
            return f"its type is {form.dtype}, and the kernel writes {', '.join(self.dtypes)}"
        if values.shape != form.shape or values.dtype != form.dtype:
            return f"its values are {values.dtype} {values.shape}, and the file says {form.dtype} {form.shape}"
        return "it is empty" if values.size == 0 else self._refusal(values, form)

    def _refusal(self, values: NDArray[Any], form: Form) -> str | None:
        """What this codec alone refuses."""
        return None

    def require(self, values: NDArray[Any], form: Form) -> None:
        """Raises `refusal` as an error.

        Raises:
            ValueError: Where there is one.
        """
        reason = self.refusal(values, form)
        if reason is not None:
            raise ValueError(f"Expected a constant that {self.name} can store. Received: {form}: {reason}")

    @abstractmethod
    def size(self, values: NDArray[Any], form: Form) -> int:
        """Exactly `encode(values, form).bytes`, found without writing the stream.

        Raises:
            ValueError: Where `refusal` gives a reason.
        """

    @abstractmethod
    def encode(self, values: NDArray[Any], form: Form) -> Encoded:
        """The constant in this codec's form.

        Args:
            values: The constant, of `form.shape` and `form.dtype`.
            form: What the file says of it.

        Raises:
            ValueError: Where `refusal` gives a reason.
        """

    @abstractmethod
    def decode(self, data: Bytes, ancillary: Bytes, form: Form) -> NDArray[Any]:
        """The constant, as the runtime's kernel reads it, with every index checked.

        Raises:
            ValueError: For a stream or tables that lead outside, end too early, or do not fit `form`.
        """


def header(type_code: int, *codec_bytes: int) -> Bytes:
    """The first 16 bytes of an ancillary tensor; `codec_bytes` go from byte 5 on."""
    made = np.zeros(HEADER_BYTES, np.uint8)
    made[0], made[1], made[4] = type_code, _DECODE_VERSION, CODEC_VERSION
    made[5 : 5 + len(codec_bytes)] = codec_bytes
    return made


def split(ancillary: Bytes, codec: Codec, form: Form, used: int = 0) -> tuple[Bytes, list[int]]:
    """The tables of an ancillary tensor, and the `used` codec's own bytes of its header; all others must be 0.

    Raises:
        ValueError: If it is not of this codec and version, or if the codec cannot give such a tensor.
    """
    own = ancillary[5 : 5 + used].tolist()
    expected = header(codec.type_code, *own)
    if ancillary.size < HEADER_BYTES or not np.array_equal(ancillary[:HEADER_BYTES], expected):
        raise ValueError(
            f"Expected an ancillary tensor that begins with {expected.tolist()}. "
            f"Received: {ancillary.size} bytes, {ancillary[:HEADER_BYTES].tolist()}"
        )
    if form.dtype not in codec.dtypes or form.elements == 0:
        raise ValueError(f"Expected a tensor that {codec.name} can store. Received: {form}")
    return ancillary[HEADER_BYTES:], own


def expect_bytes(what: str, expected: int, received: int) -> None:
    """Raises:
    ValueError: If the two differ.
    """
    if expected != received:
        raise ValueError(f"Expected {expected:,} bytes of {what}. Received: {received:,} bytes")


def bit_patterns(values: NDArray[Any]) -> NDArray[Any]:
    """The values as signed integers of the same width, flat: -0.0 is not 0.0, and a NaN equals itself."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return flat.view(f"i{flat.dtype.itemsize}")


def histogram(patterns: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Distinct values of an int8 or int16 array in ascending order, and how often each occurs."""
    if patterns.size < _SORTED:
        return np.unique(patterns, return_counts=True)
    span = 1 << (8 * patterns.dtype.itemsize)
    unsigned = patterns.view(f"u{patterns.dtype.itemsize}")
    counts = np.zeros(span, np.int64)
    for start in range(0, unsigned.size, BLOCK):
        counts += np.bincount(unsigned[start : start + BLOCK], minlength=span)
    counts = np.roll(counts, span // 2)
    found = np.flatnonzero(counts)
    return (found - span // 2).astype(patterns.dtype), counts[found]
