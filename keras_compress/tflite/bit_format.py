"""Weights of few values as bits, and the custom operators that hold them: the format, without a model.

`KC_BINARY_CONV_2D` and `KC_BINARY_DENSE` are CONV_2D and FULLY_CONNECTED in int8 but for their weights: a uint8
constant of shape (outputs, bytes of a row), with the scales of the int8 weights along its first dimension. A row has
one plane of bits, or two behind each other, each in whole bytes; value i of (height, width, inputs) is bit i & 7 of
byte i >> 3:

- `"signs"`: c where the bit is 1, else -c;
- `"ternary"`: likewise, and 0 where the bit of the second plane is 0;
- `"two_bits"`: c times (1 or -1 by the first plane + 2 or -2 by the second).

The custom options, 28 bytes and the magnitudes c, one for each output or one for all: `KCB` and the version; values
(1 signs, 2 ternary, 3 two_bits); bits of the inputs (0: signs; 1 or 2: levels above the zero point), which a runtime
has to look at where it cannot prove them; padding and activation as the schema numbers them; kernel, strides and
dilation (height before width) as uint16; inputs of a group as uint32; whether a dense layer keeps its dimensions; the
version of the operator that it stands for; two zeros. All little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
CONV, DENSE = "KC_BINARY_CONV_2D", "KC_BINARY_DENSE"
OPERATORS = {"CONV_2D": CONV, "FULLY_CONNECTED": DENSE}
VERSION = 1
VALUES = ("signs", "ternary", "two_bits")
_PLANES = {"signs": 1, "ternary": 2, "two_bits": 2}
_HEAD = struct.Struct("<3s5B6HIBB2x")


def of_bits(content: bytes) -> bool:
    """Whether the bytes of a file name one of the operators."""
    return any(name.encode() in content for name in OPERATORS.values())


@dataclass(frozen=True)
class BitOptions:
    """Custom options of an operator.

    Attributes:
        values: One of `VALUES`.
        input_bits: Of the inputs; 0 for signs.
        padding, activation: Numbers of the schema.
        kernel, strides, dilation: `(height, width)`.
        inputs: Of a group.
        keeps_dimensions: Of a dense layer.
        operator_version: Of the operator that it stands for.
        magnitudes: (outputs,) or (1,), int8, at least 0.
    """

    values: str
    input_bits: int
    padding: int
    activation: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    inputs: int
    keeps_dimensions: bool
    operator_version: int
    magnitudes: Array

    @property
    def row(self) -> int:
        """Weights of an output."""
        return self.kernel[0] * self.kernel[1] * self.inputs

    @property
    def row_bytes(self) -> int:
        """Bytes of an output's weights."""
        return _PLANES[self.values] * -(-self.row // 8)

    def packed(self) -> bytes:
        """The bytes in the file."""
        sizes = (*self.kernel, *self.strides, *self.dilation)
        head = _HEAD.pack(
            b"KCB", VERSION, 1 + VALUES.index(self.values), self.input_bits, self.padding, self.activation, *sizes,
            self.inputs, self.keeps_dimensions, self.operator_version,
        )  # fmt: skip
        return head + self.magnitudes.astype(np.int8).tobytes()

    @classmethod
    def read(cls, content: bytes) -> BitOptions:
        """The options in these bytes.

        Raises:
            ValueError: If they are damaged, or of another version.
        """
        if len(content) <= _HEAD.size or content[:3] != b"KCB":
            raise ValueError(f"Expected options of {CONV}. Received: {len(content)} other bytes")
        _, version, values, bits, padding, activation, *sizes, inputs, keeps, of = _HEAD.unpack_from(content)
        if version != VERSION:
            raise ValueError(f"Expected weights as bits in version {VERSION}. Received: version {version}")
        magnitudes = np.frombuffer(content, np.int8, offset=_HEAD.size)
        known = 1 <= values <= len(VALUES) and bits <= 2 and padding <= 1 and activation <= 3
        if not known or min(*sizes, inputs) < 1 or magnitudes.min() < 0:
            raise ValueError(f"Expected undamaged options of {CONV}. Received: {content[: _HEAD.size].hex()}")
        kernel, strides, dilation = ((sizes[i], sizes[i + 1]) for i in (0, 2, 4))
        return cls(
            values=VALUES[values - 1],
            input_bits=bits,
            padding=padding,
            activation=activation,
            kernel=kernel,
            strides=strides,
            dilation=dilation,
            inputs=inputs,
            keeps_dimensions=bool(keeps),
            operator_version=of,
            magnitudes=magnitudes,
        )


def magnitudes_of(weights: Array) -> tuple[str, Array] | None:
    """What values the rows have, and their c; `None` where one row has others.

    Args:
        weights: (outputs, values of a row), int8.
    """
    sizes = np.abs(weights.astype(np.int16))
    largest = sizes.max(axis=1)
    least = np.where(sizes == 0, 128, sizes).min(axis=1)
    least = np.where(largest == 0, 0, least)
    found = {
        "signs": (sizes == largest[:, None]).all(),
        "ternary": ((sizes == 0) | (sizes == largest[:, None])).all(),
        "two_bits": ((sizes == least[:, None]) | (sizes == 3 * least[:, None])).all(),
    }
    for values in VALUES:
        c = least if values == "two_bits" else largest
        if found[values] and largest.max(initial=0) <= 127:
            return values, (c[:1] if (c == c[0]).all() else c).astype(np.int8)
    return None


def pack_rows(weights: Array, values: str, magnitudes: Array) -> Array:
    """(outputs, bytes of a row), uint8, of weights as `magnitudes_of` takes them."""
    weights = weights.astype(np.int16)
    c = magnitudes.astype(np.int16)[:, None]
    planes = [weights > 0]
    if values == "ternary":
        planes.append(weights != 0)
    elif values == "two_bits":
        planes.insert(0, (weights > c) | (weights == -c))
    return np.concatenate([np.packbits(plane, axis=1, bitorder="little") for plane in planes], axis=1)


def unpack_rows(rows: Array, options: BitOptions) -> Array:
    """The weights, (outputs, values of a row), int8.

    Raises:
        ValueError: If rows and options do not fit together.
    """
    if rows.ndim != 2 or rows.dtype != np.uint8 or rows.shape[1] != options.row_bytes or rows.shape[0] < 1:
        raise ValueError(f"Expected rows of {options.row_bytes} bytes. Received: {rows.dtype} of shape {rows.shape}")
    if options.magnitudes.size not in (1, rows.shape[0]):
        raise ValueError(f"Expected 1 or {rows.shape[0]} magnitudes. Received: {options.magnitudes.size}")
    width = -(-options.row // 8)
    first, *second = (
        np.unpackbits(rows[:, start : start + width], axis=1, count=options.row, bitorder="little").astype(np.int16)
        for start in range(0, options.row_bytes, width)
    )
    signs = 2 * first - 1
    if options.values == "ternary":
        signs = signs * second[0]
    elif options.values == "two_bits":
        signs = signs + 2 * (2 * second[0] - 1)
    return (signs * options.magnitudes.astype(np.int16)[:, None]).astype(np.int8)


def rows_of(data: Array, outputs: int, options: BitOptions) -> Array:
    """The bytes of a constant as the rows of its outputs.

    Raises:
        ValueError: If there are more or fewer.
    """
    if data.size != outputs * options.row_bytes:
        raise ValueError(f"rows of {options.row_bytes} bytes for {outputs} outputs have {data.size:,} bytes")
    return data.reshape(outputs, options.row_bytes)


def stored_weight(rows: Array, name: str, options: BitOptions) -> Array:
    """The int8 weight that rows hold, in the shape that the stock operator has.

    Raises:
        ValueError: If rows and options do not fit together.
    """
    values = unpack_rows(rows, options)
    return values.reshape(
        (len(rows), options.inputs) if name == DENSE else (len(rows), *options.kernel, options.inputs)
    )
