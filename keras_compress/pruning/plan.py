"""Which weights stay, from scores: how many of each, in which pattern."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.pruning.distribution import highest, highest_of_all, kept_count
from keras_compress.pruning.scored import Mask, ScoredWeight

Array = NDArray[Any]


@dataclass(frozen=True)
class Pattern:
    """What is pruned as one: single weights, blocks of a matrix, or m of every n inputs.

    Attributes:
        block_size: `(inputs, outputs)` of a block.
        pooling: Score of a block: `"AVG"` or `"MAX"` of its weights'.
        m_by_n: `(m, n)`: m zeros in every n consecutive inputs of an output, or `None`.
    """

    block_size: tuple[int, int] = (1, 1)
    pooling: str = "AVG"
    m_by_n: tuple[int, int] | None = None

    @property
    def is_single(self) -> bool:
        """Whether each weight is pruned by itself."""
        return self.m_by_n is None and self.block_size == (1, 1)

    def reason_against(self, weight: ScoredWeight) -> str | None:
        """Why a weight cannot be pruned so, or `None`."""
        rows, columns = weight.to_matrix(np.zeros(weight.shape, bool)).shape
        if self.m_by_n is not None:
            few = rows < self.m_by_n[1]
            return f"its {rows} inputs are fewer than the {self.m_by_n[1]} of a group" if few else None
        blocks = -(-rows // self.block_size[0]) * -(-columns // self.block_size[1])
        return None if blocks > 1 else "it is one block, and one at least stays"

    def units(self, matrix: Array, alive: Mask) -> Array:
        """Scores of blocks, from those of a matrix; a block cut off by an edge counts its own weights.

        Weights that are zero already score 0 in a block, as they do by magnitude, and a block of such ones is the
        lowest of all.
        """
        if self.block_size == (1, 1):
            return np.where(alive, matrix, -np.inf)
        real = self._blocks(np.ones(matrix.shape, bool), False)
        lives = self._blocks(alive, False).any(axis=(1, 3))
        scores = np.where(alive, matrix, 0.0)
        if self.pooling == "AVG":
            pooled = self._blocks(scores, 0.0).sum(axis=(1, 3)) / real.sum(axis=(1, 3))
        else:
            pooled = self._blocks(scores, -np.inf).max(axis=(1, 3))
        found: Array = np.where(lives, pooled, -np.inf)
        return found

    def _blocks(self, matrix: Array, outside: Any) -> Array:
        """`(blocks down, height, blocks across, width)`."""
        height, width = self.block_size
        rows, columns = matrix.shape
        padded = np.pad(matrix, [(0, -rows % height), (0, -columns % width)], constant_values=outside)
        return padded.reshape(padded.shape[0] // height, height, -1, width)

    def mask_of(self, units: Mask, shape: tuple[int, ...]) -> Mask:
        """The mask of a matrix from that of its blocks."""
        full = np.repeat(np.repeat(units, self.block_size[0], axis=0), self.block_size[1], axis=1)
        return full[: shape[0], : shape[1]]

    def m_of_n(self, matrix: Array) -> Mask:
        """The mask of a matrix: the m lowest of every n inputs are zero; a group cut off at the end is dense."""
        if self.m_by_n is None:
            raise ValueError("Expected a pattern with `m_by_n`. Received: m_by_n=None")
        zeros, group = self.m_by_n
        whole = len(matrix) // group * group
        mask = np.ones(matrix.shape, bool)
        grouped = matrix[:whole].reshape(whole // group, group, matrix.shape[1])
        order = np.argsort(-grouped, axis=1, kind="stable")
        mask[:whole] = (np.argsort(order, axis=1) < group - zeros).reshape(whole, matrix.shape[1])
        return mask


@dataclass(frozen=True)
class Plan:
    """How many weights stay of each, and in which pattern.

    Attributes:
        sparsities: Of each weight; where they are ranked `together`, that of all.
        pattern: What is pruned as one.
        together: Whether all weights are in one ranking.
    """

    sparsities: tuple[float, ...]
    pattern: Pattern = Pattern()
    together: bool = False

    def after(self, share: float) -> Plan:
        """The plan for a part of the way: what stays is `(1 - sparsity) ** share`.

        >>> [round(Plan((0.99,)).after(share).sparsities[0], 4) for share in (0.5, 1.0)]
        [0.9, 0.99]
        """
        return replace(self, sparsities=tuple(1.0 - (1.0 - each) ** share for each in self.sparsities))

    def masks(
        self, weights: Sequence[ScoredWeight], scores: Sequence[Array], alive: Sequence[Mask], per_output: bool = False
    ) -> list[Mask]:
        """The masks of the highest scores.

        Args:
            weights: The weights.
            scores: Of each, in its shape; any order-preserving unit.
            alive: Where weights are not zero yet; what is zero stays zero.
            per_output: Rank the weights of each output alone.
        """
        pairs = list(zip(weights, scores, alive, strict=True))
        matrices = [(each.to_matrix(score), each.to_matrix(mask)) for each, score, mask in pairs]
        if self.pattern.m_by_n is not None:
            found = [self.pattern.m_of_n(np.where(mask, score, -np.inf)) for score, mask in matrices]
        else:
            units = [self.pattern.units(*each) for each in matrices]
            kept = self._units_kept(units, per_output and self.pattern.is_single)
            found = [self.pattern.mask_of(unit, m.shape) for unit, (m, _) in zip(kept, matrices, strict=True)]
        return [each.from_matrix(mask) & old for (each, _, old), mask in zip(pairs, found, strict=True)]

    def _units_kept(self, units: Sequence[Array], per_output: bool) -> list[Mask]:
        if self.together:
            return highest_of_all(units, self.sparsities[0] if self.sparsities else 0.0)
        one_by_one = zip(units, self.sparsities, strict=True)
        if per_output:
            return [highest_of_each_column(unit, sparsity) for unit, sparsity in one_by_one]
        return [highest(unit, kept_count(unit.size, sparsity)) for unit, sparsity in one_by_one]


def highest_of_each_column(scores: Array, sparsity: float) -> Mask:
    """Mask of the highest scores of each column, the same number of each; of equal ones, the first.

    >>> highest_of_each_column(np.array([[1.0, 9.0], [2.0, 8.0], [3.0, 7.0]]), 0.6).tolist()
    [[False, True], [False, False], [True, False]]
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    return np.argsort(order, axis=0) < kept_count(len(scores), sparsity)
