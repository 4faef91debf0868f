"""The code and the tables of the fewest bytes for given counts of symbols."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The writer puts a codeword and the 31 bits before it into 64 bits.
LONGEST_CODE_BITS = 32
# A leaf says in 4 bits how many bits of its table it takes, so none may take 16. Tables of 16 bits would pay only with
# more symbols than int16 has: all nodes 15 deep, half as many as table entries, would be of depth 17 or more.
LARGEST_TABLE_BITS = 15
LONGEST_STREAM_BITS = 1 << 62
# Rounding to words and the look-ahead past the end change a size by less than two words.
_UNDECIDED_BITS = 64


@dataclass(frozen=True)
class Code:
    """A canonical prefix code and the shape of its tables.

    Codewords of each length follow one another, shorter before longer, so the inner nodes of the code's tree are the
    last ones of each depth. They are numbered from the last one, 0, down.

    Attributes:
        lengths: Codeword bits of each symbol, by falling count; at least 1.
        table_bits: Per depth, the bits of the table that begins at each inner node, were there one.
        entries: Entries of all tables together.
    """

    lengths: NDArray[np.int64]
    table_bits: list[NDArray[np.int64]] = field(default_factory=list)
    entries: int = 0

    @property
    def depth(self) -> int:
        """Bits of the longest codeword."""
        return int(self.lengths[-1])

    @property
    def codewords(self) -> NDArray[np.uint64]:
        """Codeword of each symbol, in the order of `lengths`, right-aligned."""
        aligned: NDArray[np.uint64] = (self.starts >> (self.depth - self.lengths)).astype(np.uint64)
        return aligned

    @property
    def starts(self) -> NDArray[np.int64]:
        """Codewords, padded with zeros to `depth` bits."""
        widths: NDArray[np.int64] = 1 << (self.depth - self.lengths)
        return np.cumsum(widths) - widths


def code_lengths(counts: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Best codeword lengths, for each limit on the longest one, up to the limit that does not bind.

    Args:
        counts: How often each symbol occurs, falling; two symbols at least.

    Yields:
        Lengths, rising; for the limits `ceil(log2(n))`, `ceil(log2(n)) + 1`, ...

    Reference:
        Larmore and Hirschberg, "A fast algorithm for optimal length-limited Huffman codes", 1990 (package-merge).
    """
    leaves = counts[::-1]
    wanted = 2 * leaves.size - 2
    items, leaves_before = leaves, [np.arange(leaves.size + 1)]
    for limit in range(1, LONGEST_CODE_BITS + 1):
        if 1 << limit >= leaves.size:
            lengths = _lengths(leaves_before, wanted, leaves.size)
            yield lengths
            if lengths[-1] < limit:
                return
        packages = items[: items.size // 2 * 2].reshape(-1, 2).sum(axis=1)
        merged = np.concatenate([leaves, packages])
        # Stable: of equal weights a leaf comes first, which keeps the code shallow.
        order = np.argsort(merged, kind="stable")[:wanted]
        items = merged[order]
        leaves_before.append(np.concatenate([[0], np.cumsum(order < leaves.size)]))


def _lengths(leaves_before: list[NDArray[Any]], wanted: int, symbols: int) -> NDArray[np.int64]:
    """A symbol's length is in how many levels it is among the items taken; lengths rising."""
    taken = []
    for level in reversed(leaves_before):
        taken.append(int(level[wanted]))
        wanted = 2 * (wanted - taken[-1])
    lengths = np.zeros(symbols + 1, np.int64)
    np.add.at(lengths, np.array(taken), 1)
    return lengths[::-1].cumsum()[:-1]


def with_tables(lengths: NDArray[np.int64], *, wide: bool = True) -> Code:
    """The canonical code of these lengths with the tables of the fewest entries, found from the leaves up.

    A table of t bits has 2^t entries; inner nodes t deeper begin tables of their own.

    Args:
        lengths: Codeword bits, rising.
        wide: Of tables of equally many entries take the widest, which are read in fewer steps; else the narrowest,
            which look less far ahead.
    """
    depth = int(lengths[-1])
    inner = _inner_nodes(lengths, depth)
    table_bits: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * depth
    # Entries of all tables below the first so many inner nodes of each depth.
    sums: list[NDArray[np.int64]] = [np.zeros(1, np.int64)] * (depth + 1)
    for level in range(depth - 1, -1, -1):
        node = np.arange(inner[level])
        costs = []
        for bits in range(1, min(LARGEST_TABLE_BITS, depth - level) + 1):
            below = sums[level + bits]
            last = below.size - 1
            first, end = np.minimum(node << bits, last), np.minimum((node + 1) << bits, last)
            costs.append((1 << bits) + below[end] - below[first])
        table = np.array(costs)
        table_bits[level] = len(table) - table[::-1].argmin(axis=0) if wide else table.argmin(axis=0) + 1
        sums[level] = np.concatenate([[0], np.cumsum(table.min(axis=0))])
    return Code(lengths, table_bits, int(sums[0][1]))


def _inner_nodes(lengths: NDArray[np.int64], depth: int) -> list[int]:
    """Number of inner nodes at each depth."""
    leaves, inner = np.bincount(lengths, minlength=depth + 1).tolist(), [1]
    for level in range(1, depth + 1):
        inner.append(2 * inner[-1] - leaves[level])
    return inner


@dataclass(frozen=True)
class Table:
    """Every entry of the tables, in their order.

    Attributes:
        is_leaf: Whether it ends a codeword.
        count: Of a leaf, the bits it takes of its table; of a branch, the next table's bits, less 1.
        value: Of a leaf, the symbol's place in `Code.lengths`; of a branch, how many entries on the next table begins.
        reach: Per symbol, the bits that are read to find it.
    """

    is_leaf: NDArray[np.bool_]
    count: NDArray[np.int64]
    value: NDArray[np.int64]
    reach: NDArray[np.int64]


def tables(code: Code) -> Table:
    """The tables of a code: first the one at the root, then those its branches lead to, and so on."""
    table = Table(
        is_leaf=np.zeros(code.entries, bool),
        count=np.zeros(code.entries, np.int64),
        value=np.zeros(code.entries, np.int64),
        reach=np.zeros_like(code.lengths),
    )
    depth, node = np.zeros(1, np.int64), np.zeros(1, np.int64)
    bits, start = code.table_bits[0], np.zeros(1, np.int64)
    while start.size:
        owner = np.repeat(np.arange(start.size), 1 << bits)
        place = np.arange(owner.size)
        inside = place - (np.cumsum(1 << bits) - (1 << bits))[owner]
        below, index = (depth + bits)[owner], start[0] + place
        # Counted from the end, as nodes are.
        number = ((node[owner] + 1) << bits[owner]) - 1 - inside
        symbol = np.searchsorted(code.starts, ((1 << below) - 1 - number) << (code.depth - below), side="right") - 1
        leaf = code.lengths[symbol] <= below
        table.is_leaf[index] = leaf
        table.reach[symbol[leaf]] = below[leaf]
        table.count[index[leaf]] = (code.lengths[symbol] - depth[owner])[leaf]
        table.value[index[leaf]] = symbol[leaf]
        branch = ~leaf
        depth, node = below[branch], number[branch]
        bits = np.array([code.table_bits[d][n] for d, n in zip(depth.tolist(), node.tolist(), strict=True)], np.int64)
        start = index[-1] + 1 + np.cumsum(1 << bits) - (1 << bits)
        table.count[index[branch]] = bits - 1
        table.value[index[branch]] = start - index[branch]
    return table


@lru_cache(maxsize=4)
def smallest(counts: bytes, entry_bytes: int) -> tuple[Code, ...]:
    """Codes of which one makes the fewest bytes, tables and stream together; which one, the last symbols decide.

    The likeliest comes first, and all have the widest tables.

    Args:
        counts: Of an int64 array, how often each symbol occurs, falling.
        entry_bytes: Bytes of a table's entry.
    """
    frequencies = np.frombuffer(counts, np.int64)
    if frequencies.size == 1:
        # A codeword of no bits would do for the kernel, and let a few bytes claim a tensor of any size.
        return (Code(np.ones(1, np.int64), [np.ones(1, np.int64)], 2),)
    codes: list[tuple[int, Code]] = []
    least = LONGEST_STREAM_BITS
    for lengths in reversed(list(code_lengths(frequencies))):
        stream_bits, entry_bits = int(np.dot(frequencies, lengths)), 8 * entry_bytes
        # Shorter limits make longer streams, and no table has fewer entries than there are symbols.
        if stream_bits + entry_bits * frequencies.size >= least + _UNDECIDED_BITS:
            break
        code = with_tables(lengths)
        codes.append((stream_bits + entry_bits * code.entries, code))
        least = min(least, codes[-1][0])
    codes.sort(key=lambda pair: pair[0])
    return tuple(code for bits, code in codes if bits < least + _UNDECIDED_BITS)
