"""Integers of fewer than 8 bits in bytes, as LiteRT and TFLite-Micro lay them out: the first in the lowest bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def bits_needed(integers: NDArray[np.integer]) -> int:
    """Width of the symmetric signed type that holds the integers: 4 bits are -7 to 7, 2 bits -1 to 1.

    >>> bits_needed(np.array([-7, 3], np.int8)), bits_needed(np.array([-8], np.int8))
    (4, 5)
    """
    lowest, highest = int(integers.min(initial=0)), int(integers.max(initial=0))
    return max(-lowest, highest).bit_length() + 1


def spare_bits(integers: NDArray[np.integer]) -> int:
    """Lowest bits that are 0 in all the integers.

    >>> spare_bits(np.array([-112, 16, 48], np.int8))
    4
    """
    used = int(np.bitwise_or.reduce(integers, axis=None))
    return (used & -used).bit_length() - 1 if used else 0


def pack(integers: NDArray[np.integer], bits: int) -> NDArray[np.uint8]:
    """Bytes that hold the integers in row-major order, zeros at the end of the last.

    Args:
        integers: Values that fit `bits` bits.
        bits: 2 or 4.

    >>> pack(np.array([1, -1, 7], np.int8), 4).tolist()
    [241, 7]
    """
    per_byte = 8 // bits
    fields = integers.reshape(-1).astype(np.int8, copy=False).view(np.uint8) & np.uint8(2**bits - 1)
    if fields.size % per_byte:
        fields = np.concatenate([fields, np.zeros(-fields.size % per_byte, np.uint8)])
    packed: NDArray[np.uint8] = fields[::per_byte].copy()
    for place in range(1, per_byte):
        packed |= fields[place::per_byte] << np.uint8(place * bits)
    return packed


def unpack(data: NDArray[np.uint8], bits: int) -> NDArray[np.int8]:
    """The integers of `pack`, those that fill up the last byte included.

    >>> unpack(np.array([241, 7], np.uint8), 4).tolist()
    [1, -1, 7, 0]
    """
    per_byte = 8 // bits
    integers = np.empty((data.size, per_byte), np.int8)
    for place in range(per_byte):
        # To the top of the byte and back: the shift of a signed integer repeats its sign.
        integers[:, place] = (data << np.uint8(8 - bits - place * bits)).view(np.int8) >> (8 - bits)
    return integers.reshape(-1)
