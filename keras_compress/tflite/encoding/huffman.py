"""Codewords of one prefix code: the codec of tensors whose values are not equally frequent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.core.registry import register
from keras_compress.tflite.encoding.codec import (
    BLOCK,
    HEADER_BYTES,
    Bytes,
    Codec,
    Encoded,
    Form,
    bit_patterns,
    header,
    histogram,
    split,
)
from keras_compress.tflite.encoding.huffman_code import Code, Table, smallest, tables, with_tables
from keras_compress.tflite.encoding.huffman_reader import Reader

_WORD_BITS = 32
# Bits of an entry -> bits of its value.
_VALUE_BITS = {16: 11, 32: 27}


@dataclass(frozen=True)
class _Plan:
    """A code chosen for a tensor.

    Attributes:
        symbols: Distinct values, in the order of `code.lengths`.
        code: Codewords.
        table: Entries of its tables.
        words: 32-bit words of the stream, look-ahead included.
    """

    symbols: NDArray[Any]
    code: Code
    table: Table
    words: int


@register("codec", "huffman")
class Huffman(Codec):
    """Stores a codeword for each value, short for frequent ones: an optimal prefix code, with the tables that read it.

    Data is the codewords, the highest bit first in big-endian 32-bit words, with as many words as the kernel reads.
    The ancillary tensor has in byte 5 bit 0 for 32-bit entries and in bits 7-4 the first table's bits less 1, and the
    tables. An entry (16 or 32 bits, little-endian) is, from the highest bit, 1 for a leaf, 4 bits of count, and a
    value of 11 or 27 bits: see `huffman_code.Table`. In all `16 + entries * (2 or 4) + 4 * words` bytes.

    What is chosen: of the codes limited to `ceil(log2(n))` bits and up to no limit, each in its canonical form, each
    with tables within tables of the fewest entries, the one of the fewest bytes. 16-bit entries always suffice for
    int8: with 256 symbols the tables have 510 entries at most, and a branch reaches 2047.

    What the kernel does: it writes int8 (16- or 32-bit entries) and int16 (32-bit entries only), with any scales. It
    limits neither the depth of tables nor a codeword's bits, reads a first word always, and the word in which a
    table's bits end even where the codeword ends before. A value takes 1 bit at least. A leaf of count 0 in the first
    table takes none, so that all that follows is the same value: neither written here nor read.
    """

    name = "huffman"
    type_code = 1
    dtypes = ("int8", "int16")

    def size(self, values: NDArray[Any], form: Form) -> int:
        """See `Codec.size`."""
        self.require(values, form)
        plan = _plan(bit_patterns(values))
        return HEADER_BYTES + plan.code.entries * _entry_bytes(form) + 4 * plan.words

    def encode(self, values: NDArray[Any], form: Form) -> Encoded:
        """See `Codec.encode`."""
        self.require(values, form)
        patterns = bit_patterns(values)
        plan = _plan(patterns)
        wide = _entry_bytes(form) == 4
        head = header(self.type_code, (int(plan.code.table_bits[0][0]) - 1) << 4 | wide)
        return Encoded(self.name, _stream(patterns, plan), np.concatenate([head, _entries(plan, wide)]))

    def decode(self, data: Bytes, ancillary: Bytes, form: Form) -> NDArray[Any]:
        """See `Codec.decode`."""
        payload, (shape,) = split(ancillary, self, form, used=1)
        wide, first_bits = bool(shape & 1), (shape >> 4) + 1
        if shape & 0b1110 or (form.dtype == "int16" and not wide) or payload.size % (4 if wide else 2):
            raise ValueError(
                f"Expected entries of 16 bits (int8 only) or 32 bits. Received: byte 5 is {shape}, and "
                f"{payload.size} bytes of entries for {form.dtype}"
            )
        entries = np.ascontiguousarray(payload).view("<u4" if wide else "<u2").astype(np.int64)
        top = 31 if wide else 15
        reader = Reader(
            is_leaf=(entries >> top).astype(bool),
            count=entries >> (top - 4) & 15,
            value=entries & (1 << (top - 4)) - 1,
            first_bits=first_bits,
        )
        return reader.read(data, form.elements, np.dtype(form.dtype)).reshape(form.shape)


def _entry_bytes(form: Form) -> int:
    return 2 if form.dtype == "int8" else 4


def _plan(patterns: NDArray[Any]) -> _Plan:
    """The smallest code and tables for these values."""
    symbols, counts = histogram(patterns)
    order = np.argsort(-counts, kind="stable")
    symbols, counts = symbols[order], counts[order]
    entry_bytes = 2 * patterns.itemsize
    plan, fewest = None, np.iinfo(np.int64).max
    for wide_code in smallest(counts.tobytes(), entry_bytes):
        bits = int(np.dot(counts, wide_code.lengths))
        at_least = wide_code.entries * entry_bytes + 4 * -(-bits // _WORD_BITS)
        for wide in (True, False):
            # Tables that look less far ahead can only save the words of looking ahead.
            if at_least >= fewest:
                break
            code = wide_code if wide else with_tables(wide_code.lengths, wide=False)
            table = tables(code)
            words = -(-(bits + _overhang(patterns, symbols, code, table)) // _WORD_BITS)
            if code.entries * entry_bytes + 4 * words < fewest:
                plan, fewest = _Plan(symbols, code, table, words), code.entries * entry_bytes + 4 * words
    if plan is None:
        raise ValueError(f"Expected a constant with values. Received: {patterns.size} values")
    return plan


def _by_symbol(symbols: NDArray[Any], numbers: NDArray[Any]) -> NDArray[Any]:
    """Look-up table from a value, seen as unsigned, to its number."""
    table = np.zeros(1 << (8 * symbols.itemsize), numbers.dtype)
    table[symbols.view(f"u{symbols.itemsize}")] = numbers
    return table


def _overhang(patterns: NDArray[Any], symbols: NDArray[Any], code: Code, table: Table) -> int:
    """Bits that the kernel looks at beyond the last codeword; a codeword further back than 16 values cannot matter."""
    last = patterns[-16:].view(f"u{patterns.itemsize}")
    lengths = _by_symbol(symbols, code.lengths)[last]
    after = lengths[::-1].cumsum()[::-1]
    return int((_by_symbol(symbols, table.reach)[last] - after).max())


def _entries(plan: _Plan, wide: bool) -> Bytes:
    """The tables' entries as the kernel reads them."""
    bits, dtype = (32, "<u4") if wide else (16, "<u2")
    table = plan.table
    symbol = plan.symbols.view(f"u{plan.symbols.itemsize}").astype(np.int64)
    value = np.where(table.is_leaf, symbol[np.where(table.is_leaf, table.value, 0)], table.value)
    entries = table.is_leaf.astype(np.int64) << (bits - 1) | table.count << _VALUE_BITS[bits] | value
    return entries.astype(dtype).view(np.uint8)


def _stream(patterns: NDArray[Any], plan: _Plan) -> Bytes:
    """The codewords one after the other."""
    unsigned = patterns.view(f"u{patterns.itemsize}")
    length_of = _by_symbol(plan.symbols, plan.code.lengths)
    codeword_of = _by_symbol(plan.symbols, plan.code.codewords)
    # One more: a codeword of 32 bits that ends with its word has no bits in the next.
    words = np.zeros(plan.words + 1, np.uint64)
    end = 0
    for begin in range(0, unsigned.size, BLOCK):
        block = unsigned[begin : begin + BLOCK]
        lengths = length_of[block]
        ends = lengths.cumsum() + end
        starts = ends - lengths
        word = starts // _WORD_BITS
        # Each codeword in the two words from the one it begins in: 64 bits, none of them shared.
        placed = codeword_of[block] << (2 * _WORD_BITS - starts % _WORD_BITS - lengths).astype(np.uint64)
        first = np.flatnonzero(np.diff(word, prepend=-1))
        pairs = np.add.reduceat(placed, first)
        words[word[first]] += pairs >> np.uint64(_WORD_BITS)
        words[word[first] + 1] += pairs & np.uint64((1 << _WORD_BITS) - 1)
        end = int(ends[-1])
    return words[: plan.words].astype(">u4").view(np.uint8)
