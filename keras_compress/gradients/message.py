"""Messages: bytes behind a header that says whose they are, how many, and what their checksum is."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAGIC = b"KCGR"
# Magic, what wrote the message, length of the payload, CRC-32 of all the rest.
_HEADER = struct.Struct("<4sIII")
HEADER_BYTES = _HEADER.size


class Writer:
    """A payload that is written piece by piece; how long the pieces are is the reader's to know."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def array(self, values: NDArray[Any], dtype: str) -> None:
        """The values of an array, in C order, as `dtype`: `"<f4"`."""
        self._parts.append(np.ascontiguousarray(values, dtype).tobytes())

    def numbers(self, *values: int) -> None:
        """Numbers from 0 to 2^32 - 1."""
        self._parts.append(struct.pack(f"<{len(values)}I", *values))

    def payload(self) -> bytes:
        """All that was written."""
        return b"".join(self._parts)


class Reader:
    """Reads what a `Writer` wrote, in the same order.

    Args:
        payload: What it gave.
    """

    def __init__(self, payload: bytes) -> None:
        self._payload, self._at = payload, 0

    def array(self, dtype: str, count: int) -> NDArray[Any]:
        """The next `count` values.

        Raises:
            ValueError: Where there are not so many.
        """
        size = np.dtype(dtype).itemsize * count
        if count < 0 or self._at + size > len(self._payload):
            raise ValueError(
                f"Expected {size} bytes more in a message, at byte {self._at}. "
                f"Received: {len(self._payload) - self._at}"
            )
        found = np.frombuffer(self._payload, dtype, count, self._at)
        self._at += size
        return found

    def numbers(self, count: int) -> list[int]:
        """The next numbers that `Writer.numbers` wrote."""
        return [int(each) for each in self.array("<u4", count)]

    def rest(self) -> bytes:
        """All that is left."""
        found, self._at = self._payload[self._at :], len(self._payload)
        return found

    def end(self) -> None:
        """Raises:
        ValueError: Where something is left."""
        if self._at != len(self._payload):
            raise ValueError(
                f"Expected a message of {self._at} bytes. Received: {len(self._payload) - self._at} bytes more"
            )


def seal(payload: bytes, tag: int) -> bytes:
    """A message: the header, the payload, zeros up to a multiple of 4 bytes.

    Args:
        payload: Bytes.
        tag: 32 bits that tell who can read it.

    >>> len(seal(b"abcde", 7))
    24
    """
    start = _HEADER.pack(_MAGIC, tag, len(payload), 0)[:-4]
    padded = payload + bytes(-len(payload) % 4)
    return start + struct.pack("<I", zlib.crc32(padded, zlib.crc32(start))) + padded


def unseal(message: bytes, tag: int, whose: str = "a message") -> bytes:
    """The payload of a message.

    Args:
        message: What `seal` gave.
        tag: As there.
        whose: What the message is called in errors.

    Raises:
        ValueError: For a damaged message, or one with another tag.

    >>> unseal(seal(b"abcde", 7), 7)
    b'abcde'
    """
    if len(message) < HEADER_BYTES:
        raise ValueError(f"Expected {whose} of {HEADER_BYTES} bytes at least. Received: {len(message)} bytes")
    magic, found, length, checksum = _HEADER.unpack_from(message)
    if magic != _MAGIC or len(message) != HEADER_BYTES + length + (-length % 4):
        raise ValueError(f"Expected {whose} as it was sent. Received: {len(message)} bytes whose header is damaged")
    body = message[HEADER_BYTES:]
    computed = zlib.crc32(body, zlib.crc32(message[: HEADER_BYTES - 4]))
    if computed != checksum:
        raise ValueError(
            f"Expected {whose} with the checksum {checksum:08x} that its header tells. "
            f"Received: {computed:08x}: it was damaged on its way"
        )
    if found != tag:
        raise ValueError(
            f"Expected {whose} from a worker with the same codec, its arguments the same, and the same weights. "
            "Received: one of another codec or of other weights"
        )
    return body[:length]


def as_integers(message: bytes) -> NDArray[np.int32]:
    """A message as int32 values: what TensorFlow's collectives take."""
    return np.frombuffer(message, "<i4")


def split(stream: NDArray[np.int32], workers: int) -> list[bytes]:
    """The messages of all workers, which arrive one behind the other.

    Args:
        stream: int32 values.
        workers: How many there must be.

    Raises:
        ValueError: Where their headers do not tell where they end.
    """
    content, at = stream.astype("<i4").tobytes(), 0
    found: list[bytes] = []
    while at + HEADER_BYTES <= len(content) and len(found) < workers:
        magic, _, length, _ = _HEADER.unpack_from(content, at)
        if magic != _MAGIC:
            break
        end = at + HEADER_BYTES + length + (-length % 4)
        found.append(content[at:end])
        at = end
    if len(found) != workers or at != len(content):
        raise ValueError(
            f"Expected the messages of {workers} workers. Received: {len(content)} bytes, damaged at byte {at}, behind "
            f"{len(found)} messages"
        )
    return found


def tag_of(*said: object) -> int:
    """32 bits of what two sides must agree on.

    >>> tag_of("a", 1) == tag_of("a", 1) != tag_of("a", 2)
    True
    """
    return zlib.crc32(repr(said).encode())


def mean(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The mean, added in the order given: the same bits on every worker."""
    total = arrays[0].astype(np.float32, copy=True)
    for each in arrays[1:]:
        total += each
    averaged: NDArray[np.float32] = total / np.float32(len(arrays))
    return averaged
