"""Reading a stream of codewords with nothing but the tables, many places of it at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.tflite.encoding.codec import Bytes

# With the 7 bits before it in its byte, a window fits into 64 bits.
WINDOW_BITS = 57
_LOOK_UP_BITS = 16
_LANES = 2048
_LANE_BITS = (256, 2048)
# Steps after which readers that meet are joined; most codes bring them together within a few codewords.
_JOIN_AFTER = (8, 32, 128, 512)


class Reader:
    """The tables, checked, as intervals of windows: each window of the stream's next bits has one leaf.

    A stream is cut into lanes of equal bits, read side by side. Where the first codeword of a lane begins, no lane
    knows; so each is read to its end once from every bit that may be the one, joining readers that meet (as those of
    nearly all codes do at once), and what the lane before ended on picks among them.

    Raises:
        ValueError: For tables that overlap, leave entries out, lead outside or back, or take no bits for a value.
    """

    def __init__(
        self, is_leaf: NDArray[np.bool_], count: NDArray[np.int64], value: NDArray[np.int64], first_bits: int
    ) -> None:
        starts, symbols, taken, reach = _leaves(is_leaf, count, value, first_bits)
        order = np.argsort(starts)
        self._starts, self._symbols = starts[order], symbols[order]
        self._taken, self._reach = taken[order], reach[order]
        self._bits = min(int(reach.max()), _LOOK_UP_BITS)
        windows = np.arange(1 << self._bits) << (WINDOW_BITS - self._bits)
        leaf = self._leaf(windows)
        # Symbol and bits in one number; 0 where the look-up bits do not tell.
        self._look_up = np.where(self._reach[leaf] <= self._bits, self._packed(leaf), 0)

    def read(self, data: Bytes, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The first `count` values of a stream that has the words they need and no more.

        Raises:
            ValueError: If it has other words.
        """
        if data.size % 4 or data.size == 0:
            raise ValueError(f"Expected a stream of whole 32-bit words. Received: {data.size} bytes")
        # What begins before this place cannot look beyond the last word but one.
        limit = max(8 * data.size - 32 - int(self._reach.max()), 0)
        found: list[NDArray[Any]] = []
        position, left = 0, count
        for part, edges in _parts(data, limit):
            values, position = self._values(part, self._entries(part, edges, position), edges[1:], dtype)
            found.append(values)
            left -= values.size
            if left < 0:
                raise ValueError(f"Expected a stream of {count:,} values. Received: more, in {data.size:,} bytes")
        return np.concatenate([*found, self._rest(data, position, left, dtype)])

    def _leaf(self, windows: NDArray[np.int64]) -> NDArray[Any]:
        return np.searchsorted(self._starts, windows, side="right") - 1

    def _packed(self, leaf: NDArray[Any]) -> NDArray[np.int64]:
        packed: NDArray[np.int64] = self._symbols[leaf] << 8 | self._taken[leaf]
        return packed

    def _rest(self, data: Bytes, position: int, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The last values, one by one, with a look at where the stream ends."""
        bits = int.from_bytes(data[position // 8 :].tobytes() + bytes(8), "big")
        end = 8 * data.size
        have = 8 * (data.size - position // 8 + 8)
        offset, looked_at = position % 8, position
        symbols: list[int] = []
        while len(symbols) < count:
            window = bits >> (have - offset - WINDOW_BITS) & (1 << WINDOW_BITS) - 1
            leaf = int(np.searchsorted(self._starts, window, side="right")) - 1
            looked_at = max(looked_at, position + int(self._reach[leaf]))
            if looked_at > end:
                raise ValueError(f"Expected {count - len(symbols):,} more values. Received: the end of the stream")
            symbols.append(int(self._symbols[leaf]))
            position, offset = position + int(self._taken[leaf]), offset + int(self._taken[leaf])
        if -(-looked_at // 32) * 4 != data.size:
            raise ValueError(f"Expected {-(-looked_at // 32) * 4:,} bytes of stream. Received: {data.size:,} bytes")
        return np.array(symbols, np.int64).astype(dtype)

    def _step(self, part: _Part, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Symbol and bits of the codewords that begin there, as one number."""
        found: NDArray[np.int64] = self._look_up[part.bits(positions, self._bits)]
        if not found.all():
            long = np.flatnonzero(found == 0)
            found[long] = self._packed(self._leaf(part.windows(positions[long])))
        return found

    def _entries(self, part: _Part, edges: NDArray[np.int64], position: int) -> list[int]:
        """Where the first codeword of each lane begins, found from where a lane would end for each beginning."""
        offsets, lanes = int(self._taken.max()), edges.size - 1
        lane = np.repeat(np.arange(lanes), offsets)
        positions = edges[lane] + np.tile(np.arange(offsets), lanes)
        same = np.arange(positions.size)
        for step in range(int(np.diff(edges).max())):
            live = positions < edges[lane + 1]
            if not live.any():
                break
            positions = positions + np.where(live, self._step(part, positions) & 255, 0)
            if step in _JOIN_AFTER:
                _, kept, joined = np.unique(
                    positions + lane * (edges[1] - edges[0]), return_index=True, return_inverse=True
                )
                positions, lane, same = positions[kept], lane[kept], joined[same]
        ends, begins = positions[same].reshape(lanes, offsets).tolist(), edges.tolist()
        entered = []
        for number in range(lanes):
            entered.append(position)
            position = ends[number][position - begins[number]]
        return entered

    def _values(
        self, part: _Part, entered: list[int], ends: NDArray[np.int64], dtype: np.dtype[Any]
    ) -> tuple[NDArray[Any], int]:
        """Values of all lanes in order, and where the last one ends."""
        positions, read = np.array(entered), np.zeros(len(entered), np.int64)
        rows: list[NDArray[Any]] = []
        while (live := positions < ends).any():
            found = self._step(part, positions)
            rows.append((found >> 8).astype(dtype))
            positions = positions + np.where(live, found & 255, 0)
            read += live
        if not rows:
            return np.zeros(0, dtype), int(positions[-1])
        return np.stack(rows, axis=1)[np.arange(len(rows)) < read[:, None]], int(positions[-1])


class _Part:
    """A piece of the stream, to be read from any bit."""

    def __init__(self, data: Bytes, begin: int, end: int) -> None:
        self._begin = begin // 8 * 8
        # A lane ends up to a window after the piece, and looks a window further.
        piece = data[begin // 8 : -(-end // 8) + 2 * WINDOW_BITS // 8 + 8]
        count = -(-end // 8) - begin // 8 + WINDOW_BITS // 8 + 2
        padded = np.zeros(count + 8, np.uint8)
        padded[: piece[: count + 8].size] = piece[: count + 8]
        self._words = np.zeros(count + 4, np.int64)
        for byte in range(4):
            self._words = self._words << 8 | padded[byte : byte + count + 4]

    def bits(self, positions: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
        """The next `bits`, 16 at most, at each position."""
        inside = positions - self._begin
        taken: NDArray[np.int64] = self._words[inside >> 3] >> (32 - bits - (inside & 7)) & ((1 << bits) - 1)
        return taken

    def windows(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The next `WINDOW_BITS` at each position."""
        inside = positions - self._begin
        high, low = self._words[inside >> 3].astype(np.uint64), self._words[(inside >> 3) + 4].astype(np.uint64)
        both = (high << np.uint64(32) | low) << (inside & 7).astype(np.uint64)
        window: NDArray[np.int64] = (both >> np.uint64(64 - WINDOW_BITS)).astype(np.int64)
        return window


def _parts(data: Bytes, limit: int) -> Iterator[tuple[_Part, NDArray[np.int64]]]:
    """The stream up to bit `limit` in pieces, each with the edges of its lanes."""
    lane_bits = min(max(int(limit**0.5), _LANE_BITS[0]), _LANE_BITS[1])
    for begin in range(0, limit, _LANES * lane_bits):
        end = min(begin + _LANES * lane_bits, limit)
        yield _Part(data, begin, end), np.append(np.arange(begin, end, lane_bits), end)


def _leaves(
    is_leaf: NDArray[np.bool_], count: NDArray[np.int64], value: NDArray[np.int64], first_bits: int
) -> tuple[NDArray[np.int64], ...]:
    """First window, symbol, bits taken and bits looked at of each leaf; every entry must be in exactly one table."""
    start, bits = np.zeros(1, np.int64), np.full(1, first_bits)
    path, depth = np.zeros(1, np.int64), np.zeros(1, np.int64)
    leaves: list[tuple[NDArray[np.int64], ...]] = []
    seen = 0
    while start.size:
        sizes = 1 << bits
        seen += int(sizes.sum())
        if seen > is_leaf.size or int((start + sizes).max()) > is_leaf.size or int((depth + bits).max()) > WINDOW_BITS:
            raise ValueError(
                f"Expected tables beside one another in {is_leaf.size:,} entries, {WINDOW_BITS} bits deep at most. "
                "Received: tables that overlap, lead back or outside, or go deeper"
            )
        owner = np.repeat(np.arange(start.size), sizes)
        inside = np.arange(owner.size) - (np.cumsum(sizes) - sizes)[owner]
        index, below = start[owner] + inside, (depth + bits)[owner]
        whole, leaf = path[owner] << bits[owner] | inside, is_leaf[start[owner] + inside]
        taken = depth[owner] + count[index]
        if (count[index][leaf] > bits[owner][leaf]).any() or (taken[leaf] < 1).any():
            raise ValueError(
                "Expected leaves that take 1 bit at least, and no more than their table has. Received: others"
            )
        leaves.append((whole[leaf] << (WINDOW_BITS - below[leaf]), value[index][leaf], taken[leaf], below[leaf]))
        start, bits = (index + value[index])[~leaf], count[index][~leaf] + 1
        path, depth = whole[~leaf], below[~leaf]
    if seen != is_leaf.size:
        raise ValueError(f"Expected {seen:,} entries, as the tables have. Received: {is_leaf.size:,} entries")
    return tuple(np.concatenate(column) for column in zip(*leaves, strict=True))
