"""Indices of 1 to 7 bits into a table of values: the codec of clustered tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.core.registry import register
from keras_compress.tflite.encoding.codec import (
    HEADER_BYTES,
    Bytes,
    Codec,
    Encoded,
    Form,
    bit_patterns,
    expect_bytes,
    header,
    histogram,
    split,
)

MOST_ENTRIES = 128
# Channels times distinct values, up to which what occurs is counted and not sorted.
_COUNTED = 1 << 22


@register("codec", "lut")
class Lut(Codec):
    """Stores an index of `b` bits for each value: one table of at most `2^b` values for all, or one for each channel.

    Data is the indices, row-major, the highest bit first. The ancillary tensor has `b` in byte 5, in byte 6 the
    entries of each channel's table or 0 for one table, and the tables in the tensor's own type, little-endian. In all
    `16 + tables * entries * itemsize + ceil(N * b / 8)` bytes; of one table and one for each channel the smaller.

    What the kernel does: it writes bool, int8, int16, int32, int64 and float32, and counts as many channels as the
    tensor has scales, along the first or the last axis; a table needs no more entries than are used. An index has at
    most 7 bits, so more than 128 values in each table cannot be stored, and an int8 tensor shrinks to 1/8 at best.
    """

    name = "lut"
    type_code = 0
    dtypes = ("bool", "int8", "int16", "int32", "int64", "float32")

    def _refusal(self, values: NDArray[Any], form: Form) -> str | None:
        if form.axis_refusal is not None:
            return form.axis_refusal
        distinct, widest = _distinct(values, form)
        if min(distinct, widest) > MOST_ENTRIES:
            where = f", {widest} of them in one channel" if form.scale_count > 1 else ""
            return f"it has {distinct} distinct values{where}, and a table holds {MOST_ENTRIES}"
        return None

    def size(self, values: NDArray[Any], form: Form) -> int:
        """See `Codec.size`."""
        self.require(values, form)
        return _smallest(values, form)[0]

    def encode(self, values: NDArray[Any], form: Form) -> Encoded:
        """See `Codec.encode`."""
        self.require(values, form)
        _, entries, stride = _smallest(values, form)
        table, codes = _ranked(bit_patterns(values))
        if stride:
            table, codes = _tables_of_channels(table, codes, form, stride)
        payload = table.astype(table.dtype.newbyteorder("<")).view(np.uint8)
        head = header(self.type_code, _bits_for(entries), stride)
        return Encoded(self.name, _pack(codes, _bits_for(entries)), np.concatenate([head, payload]))

    def decode(self, data: Bytes, ancillary: Bytes, form: Form) -> NDArray[Any]:
        """See `Codec.decode`."""
        payload, (bits, stride) = split(ancillary, self, form, used=2)
        if form.axis_refusal is not None or not 1 <= bits <= 7 or stride > MOST_ENTRIES:
            raise ValueError(
                f"Expected indices of 1 to 7 bits, at most {MOST_ENTRIES} entries for each channel, and scales along "
                f"the first or the last axis. Received: {bits} bits, {stride} entries, {form}"
            )
        expect_bytes("indices", -(-form.elements * bits // 8), data.size)
        dtype = np.dtype(form.dtype)
        entries, tables = stride or payload.size // dtype.itemsize, max(form.scale_count, 1) if stride else 1
        expect_bytes("tables", tables * entries * dtype.itemsize, payload.size)
        indices = _unpack(data, bits, form.elements)
        if not int(indices.max()) < entries <= 1 << bits:
            raise ValueError(f"Expected at most {1 << bits} entries, all indices below. Received: {entries} entries")
        table = np.ascontiguousarray(payload).view(dtype.newbyteorder("<")).astype(dtype)
        if tables > 1:
            table = table.reshape(tables, entries)
            by_channel: NDArray[Any] = table[_channels(form), indices.reshape(_split_shape(form))]
            return by_channel.reshape(form.shape)
        one_table: NDArray[Any] = table[indices]
        return one_table.reshape(form.shape)


def _bits_for(entries: int) -> int:
    return max(1, (entries - 1).bit_length())


def _smallest(values: NDArray[Any], form: Form) -> tuple[int, int, int]:
    """Bytes, entries and stride of the smaller form; at least one of them must fit."""
    distinct, widest = _distinct(values, form)
    offered = [(distinct, 1, 0), (widest, form.scale_count, widest)]
    return min(
        (
            HEADER_BYTES + tables * entries * values.itemsize + -(-form.elements * _bits_for(entries) // 8),
            entries,
            stride,
        )
        for entries, tables, stride in offered[: 1 + (form.scale_count > 1)]
        if entries <= MOST_ENTRIES
    )


def _distinct(values: NDArray[Any], form: Form) -> tuple[int, int]:
    """Distinct values of the tensor, and of the channel that has the most."""
    patterns = bit_patterns(values)
    if form.scale_count < 2:
        found = histogram(patterns)[0] if patterns.itemsize == 1 else np.unique(patterns)
        return found.size, found.size
    table, codes = _ranked(patterns)
    return table.size, int(np.bincount(_pairs(table, codes, form) // table.size).max())


def _ranked(patterns: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Distinct bit patterns in ascending order, and the place of each value among them."""
    if patterns.itemsize > 1:
        table, codes = np.unique(patterns, return_inverse=True)
        return table, codes
    table, _ = histogram(patterns)
    rank = np.zeros(256, np.uint8)
    rank[table.view(np.uint8)] = np.arange(table.size)
    ranked: NDArray[np.uint8] = rank[patterns.view(np.uint8)]
    return table, ranked


def _split_shape(form: Form) -> tuple[int, int, int]:
    """The tensor as (before, channels, after)."""
    if form.dimension == 0:
        return 1, form.scale_count, form.elements // form.scale_count
    return form.elements // form.scale_count, form.scale_count, 1


def _channels(form: Form) -> NDArray[np.int64]:
    """Channel numbers, to be broadcast against `_split_shape`."""
    return np.arange(form.scale_count)[:, None]


def _pairs(table: NDArray[Any], codes: NDArray[Any], form: Form) -> NDArray[Any]:
    """Channel and code of all that occurs, as `channel * table.size + code`, ascending."""
    keys = (codes.reshape(_split_shape(form)) + _channels(form) * table.size).reshape(-1)
    if form.scale_count * table.size <= _COUNTED:
        return np.flatnonzero(np.bincount(keys, minlength=1))
    return np.unique(keys)


def _tables_of_channels(
    table: NDArray[Any], codes: NDArray[Any], form: Form, stride: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """A table of `stride` entries for each channel, one after the other, and each value's place in its own."""
    pairs = _pairs(table, codes, form)
    channel = pairs // table.size
    place = np.arange(pairs.size) - np.searchsorted(channel, channel)
    tables = np.zeros((form.scale_count, stride), table.dtype)
    tables[channel, place] = table[pairs % table.size]
    keys = (codes.reshape(_split_shape(form)) + _channels(form) * table.size).reshape(-1)
    if form.scale_count * table.size > _COUNTED:
        return tables.reshape(-1), place[np.searchsorted(pairs, keys)]
    place_of_key = np.zeros(form.scale_count * table.size, np.uint8)
    place_of_key[pairs] = place
    return tables.reshape(-1), place_of_key[keys]


def _pack(indices: NDArray[Any], bits: int) -> Bytes:
    """Eight indices to `bits` bytes, the highest bit first."""
    groups = np.zeros((-(-indices.size // 8), 8), np.uint8)
    groups.reshape(-1)[: indices.size] = indices
    packed = np.zeros(len(groups), np.uint64)
    for column in range(8):
        packed = packed << np.uint64(bits) | groups[:, column]
    return packed.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 8 - bits :].reshape(-1)[: -(-indices.size * bits // 8)]


def _unpack(data: Bytes, bits: int, count: int) -> NDArray[np.uint8]:
    """The first `count` indices; the reverse of `_pack`."""
    groups = np.zeros((-(-count // 8), 8), np.uint8)
    padded = np.zeros(len(groups) * bits, np.uint8)
    padded[: data.size] = data
    groups[:, 8 - bits :] = padded.reshape(-1, bits)
    packed = groups.view(">u8").astype(np.uint64).reshape(-1)
    for column in range(8):
        groups[:, 7 - column] = packed >> np.uint64(bits * column) & np.uint64((1 << bits) - 1)
    return groups.reshape(-1)[:count]
