"""An order of inputs in which m zeros in every n of them cost less magnitude."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# Numbers that a search looks at, a part of the columns; an order that it finds is judged by all of them.
_SEEN = 2**19
_FEWEST_COLUMNS = 64
# Gains below this share of the whole are rounding.
_LEAST_GAIN = 1e-6


def kept_magnitude(magnitudes: Array, m_by_n: tuple[int, int]) -> float:
    """The sum of what stays when the m smallest of every n consecutive rows of each column go.

    Args:
        magnitudes: `(inputs, columns)`, inputs a multiple of n.
        m_by_n: `(m, n)`.

    >>> kept_magnitude(np.array([[4.0], [3.0], [2.0], [1.0]]), (1, 2))
    6.0
    """
    zeros, group = m_by_n
    grouped = magnitudes.reshape(-1, group, magnitudes.shape[1])
    return float(np.partition(grouped, zeros, axis=1)[:, zeros:].sum(dtype=np.float64))


def best_order(magnitudes: Array, m_by_n: tuple[int, int]) -> NDArray[np.int64]:
    """An order of rows in which more magnitude stays, see `kept_magnitude`; that of now, where none is found.

    Two rows of different groups change places, those first that gain most, until no such change gains anything. It is
    begun once with the order as it is, and once with rows dealt out by their sums, as large ones disturb each other.

    Args:
        magnitudes: `(inputs, columns)`, inputs a multiple of n.
        m_by_n: `(m, n)`.

    Returns:
        Row i of the new order is row `order[i]`.

    >>> weights = np.array([[4.0], [3.0], [2.0], [1.0]])
    >>> order = best_order(weights, (1, 2))
    >>> kept_magnitude(weights[order], (1, 2))
    7.0

    **Reference**: Pool and Yu, "Channel permutations for N:M sparsity" (2021), section 4: greedy swaps of channels.
    **Deviations**: the gain of all swaps from one product of comparisons, no exhaustive search of small stripes and no
    random escapes.
    """
    rows, columns = magnitudes.shape
    zeros, group = m_by_n
    now = np.arange(rows)
    seen = magnitudes[:, :: -(-columns // max(_SEEN // rows, _FEWEST_COLUMNS)) or 1].astype(np.float32)
    dealt = np.argsort(-seen.sum(axis=1), kind="stable").reshape(group, -1).T.ravel()
    found = [now, *(_Swaps(seen, start, zeros, group).order() for start in (now, dealt))]
    return max(found, key=lambda order: kept_magnitude(magnitudes[order], m_by_n))


class _Swaps:
    """Changes of places between groups.

    A group without its row a keeps, with another row b in place of a, the sum of the largest k of the others, and in
    each column as much as b is above the k-th of them.
    """

    def __init__(self, magnitudes: Array, start: NDArray[np.int64], zeros: int, group: int) -> None:
        self._w, self._zeros, self._group = magnitudes, zeros, group
        self._order: NDArray[np.int64] = start.copy()
        count = len(start)
        self._groups = np.empty(count, np.int64)
        self._groups[start] = np.arange(count) // group
        self._kept = np.zeros(count // group)
        # `[a, b]`: what the group of a keeps with b in its place.
        self._instead = np.zeros((count, count))
        self._refresh(range(count // group))

    def _refresh(self, numbers: Any) -> None:
        for number in numbers:
            members = self._order[number * self._group : (number + 1) * self._group]
            values = self._w[members]
            self._kept[number] = np.partition(values, self._zeros, axis=0)[self._zeros :].sum(dtype=np.float64)
            for place, row in enumerate(members):
                self._instead[row] = self._without(np.delete(values, place, axis=0))

    def _without(self, others: Array) -> Array:
        """What is kept of these rows and one more, for each row of all."""
        # The k-th largest of the others comes at this place when they are in ascending order.
        place = self._zeros - 1
        ascending = np.partition(others, place, axis=0)
        above = float(ascending[place + 1 :].sum(dtype=np.float64))
        # float32 sums: half the time of the search.
        gained: Array = above + np.maximum(self._w, ascending[place]).sum(axis=1).astype(np.float64)
        return gained

    def order(self) -> NDArray[np.int64]:
        """The order when no change of places gains anything."""
        least = _LEAST_GAIN * max(float(self._kept.sum()), 1e-30)
        for _ in range(10 * len(self._order)):
            both = self._kept[self._groups]
            gains = self._instead + self._instead.T - both[:, np.newaxis] - both
            gains[self._groups[:, np.newaxis] == self._groups] = -np.inf
            a, b = np.unravel_index(int(np.argmax(gains)), gains.shape)
            if not gains[a, b] > least:
                break
            self._swap(int(a), int(b))
        return self._order

    def _swap(self, a: int, b: int) -> None:
        at_a, at_b = (int(np.flatnonzero(self._order == row)[0]) for row in (a, b))
        self._order[at_a], self._order[at_b] = b, a
        self._groups[a], self._groups[b] = self._groups[b], self._groups[a]
        self._refresh({int(self._groups[a]), int(self._groups[b])})
