"""Constants stored compressed and decoded by TFLite-Micro while the model runs: what every codec offers.

The runtime's custom operator `TFLM_DECODE` takes two byte tensors for each constant, the encoded values and an
ancillary tensor (a header of 16 bytes and the codec's tables), and writes the constant into the arena.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
HEADER_BYTES = 16
CODEC_VERSION = 1
_DECODE_VERSION = 1


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
    """

    name: str
    type_code: int

    @abstractmethod
    def refusal(self, values: NDArray[Any], form: Form) -> str | None:
        """Why this constant cannot be stored so; `None` where it can."""

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


def check_header(ancillary: Bytes, type_code: int) -> None:
    """Refuse an ancillary tensor that is not of this codec and version.

    Raises:
        ValueError: With what was found.
    """
    start = ancillary[:5].tolist()
    if ancillary.size < HEADER_BYTES or start != header(type_code)[:5].tolist():
        raise ValueError(
            f"Expected an ancillary tensor of at least {HEADER_BYTES} bytes that begins with "
            f"{header(type_code)[:5].tolist()}. Received: {ancillary.size} bytes, {start}"
        )
