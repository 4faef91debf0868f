"""The choice of `Selection`, made of TensorFlow operations: for masks that a training step decides on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.structured.selection import step_of

Tensor = Any


@dataclass(frozen=True)
class Pool:
    """Units that compete: so many of them go.

    Attributes:
        start: Number of the first.
        width: How many they are.
        max_ratio: Largest share of them that goes, in [0, 1].
    """

    start: int
    width: int
    max_ratio: float = 0.9

    @classmethod
    def of(cls, given: Pool | Mapping[str, float] | Sequence[float]) -> Pool:
        """A pool from a configuration: a mapping, or a list as files of the first release have it.

        Raises:
            ValueError: For anything else.

        >>> Pool.of({"start": 0, "width": 8}) == Pool.of([0, 8, 0.9]) == Pool(0, 8)
        True
        """
        if isinstance(given, Pool):
            return given
        named = given if isinstance(given, Mapping) else dict(zip(("start", "width", "max_ratio"), given, strict=False))
        if not {"start", "width"} <= set(named) <= {"start", "width", "max_ratio"}:
            raise ValueError(f"Expected a pool as {{'start': 0, 'width': 8, 'max_ratio': 0.9}}. Received: {given}")
        return cls(int(named["start"]), int(named["width"]), float(named.get("max_ratio", cls.max_ratio)))

    def holds(self, units: Any) -> Any:
        """For each number of a unit, whether it is of this pool."""
        return (units >= self.start) & (units < self.start + self.width)


class Ranking:
    """Which of some units stay: the lowest scores go, in each pool of units that compete, or of all pools together.

    It gives what `Selection` gives for the same scores and ratio.

    Args:
        pools: The pools. Units are numbered pool by pool.
        round_to: Numbers of units that stay are multiples of it; see `step_of` for narrow pools.
    """

    def __init__(self, pools: Sequence[Pool], round_to: int = 1) -> None:
        self._widths = np.array([pool.width for pool in pools], np.int32)
        self._max_ratios = np.array([pool.max_ratio for pool in pools], np.float64)
        least = np.maximum(1, np.ceil(self._widths * (1.0 - self._max_ratios) - 1e-9))
        self._most = np.maximum(self._widths - least, 0).astype(np.int32)
        self._steps = np.array([step_of(pool.width, round_to) for pool in pools], np.float64)
        self._pool_of = np.repeat(np.arange(len(self._widths), dtype=np.int32), self._widths)
        # Of units sorted by score in each pool, which places then have the same pools: their rank.
        starts = np.cumsum(self._widths) - self._widths
        self._rank = (np.arange(len(self._pool_of)) - np.repeat(starts, self._widths)).astype(np.int32)

    def kept(self, scores: Tensor, ratio: Tensor, *, together: bool, comparable: bool, live: Tensor | None) -> Tensor:
        """Which units stay, bool.

        Args:
            scores: float32, one for each unit.
            ratio: Share to remove.
            together: Rank all pools together.
            comparable: Whether scores of different pools can be compared as they are.
            live: Units that are there still; the others cannot come back, and go first.
        """
        # As written, not as float32 has it: 0.1 of 40 are 4.
        exact = tf.round(tf.cast(ratio, tf.float64) * 1e6) / 1e6
        live = tf.ones_like(scores, tf.bool) if live is None else live
        order = self._order(tf.where(live, scores, -tf.ones_like(scores)))
        if together:
            lost = self._lost_together(tf.gather(scores, order), tf.gather(live, order), exact, comparable)
            kept = tf.cast(self._widths, tf.float64) - tf.cast(lost, tf.float64)
        else:
            kept = self._widths * (1.0 - tf.minimum(exact, self._max_ratios))
        stays = self._rank >= tf.gather(self._widths - self._rounded(kept), self._pool_of)
        return tf.scatter_nd(order[:, None], tf.cast(stays, tf.int32), tf.shape(scores)) > 0

    def _order(self, scores: Tensor) -> Tensor:
        """Units sorted by pool, and in each by score."""
        by_score = tf.argsort(scores, stable=True)
        return tf.gather(by_score, tf.argsort(tf.gather(self._pool_of, by_score), stable=True))

    def _lost_together(self, scores: Tensor, live: Tensor, ratio: Tensor, comparable: bool) -> Tensor:
        """How many units of each pool are among the lowest of all; from sorted scores."""
        pools = len(self._widths)
        if not comparable:
            alive = tf.cast(live, tf.float32)
            sums = tf.math.unsorted_segment_sum(scores * alive, self._pool_of, pools)
            means = sums / tf.maximum(tf.math.unsorted_segment_sum(alive, self._pool_of, pools), 1.0)
            scores = scores / tf.gather(tf.where(means > 0, means, tf.ones_like(means)), self._pool_of)
        may_go = self._rank < self._most[self._pool_of]
        ranked = tf.where(may_go, tf.where(live, scores, -tf.ones_like(scores)), tf.fill(tf.shape(scores), np.inf))
        count = tf.cast(tf.round(ratio * len(self._rank)), tf.int32)
        place = tf.argsort(tf.argsort(ranked, stable=True))
        lowest = tf.cast((place < count) & may_go, tf.int32)
        return tf.math.unsorted_segment_sum(lowest, self._pool_of, pools)

    def _rounded(self, kept: Tensor) -> Tensor:
        """See `GroupLimits.kept`."""
        step = self._steps
        nearest = tf.where(step == 1.0, tf.round(kept), tf.floor(kept / step + 0.5) * step)
        least = self._widths * (1.0 - self._max_ratios) - 1e-9
        counts = tf.maximum(nearest, np.maximum(np.ceil(least / step), 1.0) * step)
        return tf.minimum(tf.cast(counts, tf.int32), self._widths)
