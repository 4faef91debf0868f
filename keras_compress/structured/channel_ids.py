"""Numbers for channels, and which of them live and die together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
# Axis of a tensor (the batch is axis 0) -> a number for each index on it. An axis that is not in it has a fixed width.
Axes = dict[int, Ids]


@dataclass
class ChannelIds:
    """Hands out ids of channels, and notes which must be kept or removed together and which cannot be removed.

    >>> ids = ChannelIds()
    >>> a, b = ids.new(2), ids.new(2)
    >>> ids.tie(a, b)
    >>> ids.freeze(b[1:], "read by an output")
    >>> units, reasons = ids.units()
    >>> units.tolist(), reasons
    ([0, 1, 0, 1], {1: 'read by an output'})
    """

    _count: int = 0
    _ties: list[tuple[Ids, Ids]] = field(default_factory=list)
    _frozen: list[tuple[Ids, str]] = field(default_factory=list)

    def new(self, count: int) -> Ids:
        """Ids that nothing has yet."""
        made = np.arange(self._count, self._count + count, dtype=np.int64)
        self._count += count
        return made

    def tie(self, first: Ids, second: Ids) -> None:
        """Let two channels of the same position live and die together."""
        if len(first) != len(second):
            raise ValueError(f"Expected as many channels on both sides. Received: {len(first)} and {len(second)}")
        if first is not second:
            self._ties.append((first, second))

    def tie_rows(self, ids: Ids, rows: int) -> None:
        """Let channels of the same position in each of `rows` equal parts of `ids` live and die together."""
        parts = ids.reshape(rows, -1)
        for part in parts[1:]:
            self.tie(parts[0], part)

    def freeze(self, ids: Ids, reason: str) -> None:
        """Keep channels, for a reason in words."""
        self._frozen.append((ids, reason))

    def units(self) -> tuple[NDArray[np.int32], dict[int, str]]:
        """`id -> unit`, the number of the set of channels that live and die together, and why units are frozen."""
        from scipy.sparse import coo_array  # scipy is slow to import
        from scipy.sparse.csgraph import connected_components

        first, second = (np.concatenate([np.zeros(0, np.int64), *part]) for part in self._sides())
        links = coo_array((np.ones(len(first), bool), (first, second)), shape=(self._count, self._count))
        units = connected_components(links, directed=False)[1] if self._count else np.zeros(0, np.int32)
        reasons: dict[int, str] = {}
        # What was said last is about the whole model.
        for ids, reason in reversed(self._frozen):
            for unit in np.unique(units[ids]):
                reasons.setdefault(int(unit), reason)
        return units, reasons

    def _sides(self) -> tuple[list[Any], list[Any]]:
        return [first for first, _ in self._ties], [second for _, second in self._ties]
