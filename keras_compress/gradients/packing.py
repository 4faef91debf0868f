"""Small integers in few bits, and ascending keys by their differences; all in NumPy, without loops over values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.gradients.message import Reader, Writer

Integers = NDArray[Any]
# Five digits of base 3 in a byte: 3^5 = 243.
_POWERS_OF_3 = np.array([1, 3, 9, 27, 81], np.uint8)


def write_bits(writer: Writer, values: Integers, bits: int) -> None:
    """Integers from 0 to 2^bits - 1, one behind the other.

    Args:
        writer: Gets `ceil(len(values) * bits / 8)` bytes.
        values: One axis.
        bits: 0 to 16.
    """
    if bits == 8:
        writer.array(values, "u1")
        return
    shifts = np.arange(bits, dtype=np.uint16)
    digits = (values.astype(np.uint16)[:, None] >> shifts) & np.uint16(1)
    writer.array(np.packbits(digits.astype(np.uint8).reshape(-1), bitorder="little"), "u1")


def read_bits(reader: Reader, count: int, bits: int) -> NDArray[np.uint16]:
    """What `write_bits` wrote."""
    if bits == 8:
        return reader.array("u1", count).astype(np.uint16)
    stored = reader.array("u1", -(-count * bits // 8))
    digits = np.unpackbits(stored, count=count * bits, bitorder="little").reshape(count, bits)
    values: NDArray[np.uint16] = digits.astype(np.uint16) @ (np.uint16(1) << np.arange(bits, dtype=np.uint16))
    return values


def write_trits(writer: Writer, values: Integers) -> None:
    """Integers out of 0, 1, 2, five in a byte: 1.6 bits each."""
    padded = np.zeros(-(-len(values) // 5) * 5, np.uint8)
    padded[: len(values)] = values
    writer.array(padded.reshape(-1, 5) @ _POWERS_OF_3, "u1")


def read_trits(reader: Reader, count: int) -> NDArray[np.uint8]:
    """What `write_trits` wrote."""
    stored = reader.array("u1", -(-count // 5))
    values: NDArray[np.uint8] = (stored[:, None] // _POWERS_OF_3 % np.uint8(3)).reshape(-1)[:count]
    return values


def write_keys(writer: Writer, keys: Integers) -> None:
    """Ascending integers from 0 to 2^32 - 1 by their differences: 2 bits for how many bytes one has, and these bytes.

    **Reference**: Jiang et al., "SketchML" (2018), delta-binary encoding.

    Args:
        writer: Gets them behind their number of bytes.
        keys: Ascending, each once.
    """
    differences = np.diff(keys.astype("<i8"), prepend=0).astype("<u4")
    thresholds = np.array([2**8, 2**16, 2**24], np.uint32)
    extra = (differences[:, None] >= thresholds).sum(axis=1).astype(np.uint8)
    octets = differences.view(np.uint8).reshape(-1, 4)
    stored = octets[np.arange(4) <= extra[:, None]]
    writer.numbers(len(stored))
    write_bits(writer, extra, 2)
    writer.array(stored, "u1")


def read_keys(reader: Reader, count: int) -> NDArray[np.int64]:
    """What `write_keys` wrote.

    Raises:
        ValueError: Where bytes and lengths do not agree.
    """
    (size,) = reader.numbers(1)
    extra = read_bits(reader, count, 2)
    stored = reader.array("u1", size)
    taken = np.arange(4) <= extra[:, None]
    if int(taken.sum()) != size:
        raise ValueError(f"Expected {int(taken.sum())} bytes of keys in a message. Received: {size}")
    octets = np.zeros((count, 4), np.uint8)
    octets[taken] = stored
    return octets.view("<u4").reshape(-1).astype(np.int64).cumsum()
