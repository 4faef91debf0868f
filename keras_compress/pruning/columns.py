"""Columns of a matrix in groups, and the matrix packed: what `ColumnCombining` computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_compress.core.ste import compiled

Tensor = Any
# Group of a column in which nothing is left: it needs no place.
EMPTY = -1


@dataclass(frozen=True)
class PackedColumns:
    """A packed weight matrix.

    Attributes:
        values: `(outputs, groups)`: the one weight that each output has in each group, or 0.
        columns: int32, as `values`: which column of the matrix it comes from, or -1.
        shape: Shape of the weight.
        axes: Its axes in the order inputs, outputs.
    """

    values: NDArray[Any]
    columns: NDArray[np.int32]
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def density(self) -> float:
        """Share of cells that hold a weight."""
        return float(np.mean(self.columns != EMPTY)) if self.columns.size else 0.0

    def unpack(self) -> NDArray[Any]:
        """The pruned weight, in its shape."""
        rows, groups = np.nonzero(self.columns != EMPTY)
        matrix = np.zeros((int(np.prod(self.shape)) // len(self.values), len(self.values)), self.values.dtype)
        matrix[self.columns[rows, groups], rows] = self.values[rows, groups]
        in_order = matrix.reshape([self.shape[axis] for axis in self.axes])
        weight: NDArray[Any] = in_order.transpose(np.argsort(self.axes))
        return weight


@compiled
def group_columns(scores: Tensor, alpha: int, gamma: float) -> Tensor:
    """The group of each column, `EMPTY` for one without weights.

    Args:
        scores: `(columns, rows)`: magnitudes, 0 where there is no weight.
        alpha: Most columns in a group.
        gamma: Most conflicts of a group for each row, on average.

    >>> weights = tf.constant([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    >>> group_columns(weights, 2, 0.0).numpy().tolist()
    [1, 0, 0, -1]
    """
    columns, rows = scores.shape
    filled = tf.cast(scores > 0, tf.float32)
    counts = tf.reduce_sum(filled, 1)
    limit = float(gamma) * rows + 1e-3

    def add(
        left: Tensor, groups: Tensor, group: Tensor, taken: Tensor, size: Tensor, conflicts: Tensor
    ) -> tuple[Tensor, ...]:
        """Put one more column into the group that is being filled, or begin the next group with it."""
        collisions = tf.linalg.matvec(filled, taken)
        fits = left & (conflicts + collisions <= limit) & (size < alpha)
        begins = ~tf.reduce_any(fits)
        # What the column adds; of equal ones, that with the fewest conflicts. A group begins with the densest column.
        gain = tf.where(begins, counts, counts - collisions - collisions / (rows + 1.0))
        column = tf.argmax(tf.where(tf.where(begins, left, fits), gain, -float(rows)), output_type=tf.int32)
        chosen = tf.range(columns) == column
        group = tf.where(begins, group + 1, group)
        taken = tf.maximum(tf.where(begins, tf.zeros_like(taken), taken), filled[column])
        size = tf.where(begins, 1, size + 1)
        conflicts = tf.where(begins, 0.0, conflicts + collisions[column])
        return left & ~chosen, tf.where(chosen, group, groups), group, taken, size, conflicts

    start = (
        counts > 0,
        tf.fill([columns], EMPTY),
        tf.constant(-1),
        tf.zeros([rows]),
        tf.constant(alpha),
        tf.constant(0.0),
    )
    return tf.while_loop(lambda left, *_: tf.reduce_any(left), add, start)[1]


@compiled
def keep_largest(scores: Tensor, groups: Tensor) -> Tensor:
    """Mask of the largest score that each row has in each group; of equal ones, the first.

    >>> keep_largest(tf.constant([[1.0, 2.0], [3.0, 0.0], [4.0, 2.0]]), tf.constant([0, 0, 1])).numpy().tolist()
    [[False, True], [True, False], [True, True]]
    """
    columns = scores.shape[0]
    place = tf.where(groups == EMPTY, columns, groups)
    largest = tf.gather(tf.math.unsorted_segment_max(scores, place, columns + 1), place)
    index = tf.range(columns)[:, None]
    candidates = tf.where((scores > 0) & (scores >= largest), index, columns)
    first = tf.gather(tf.math.unsorted_segment_min(candidates, place, columns + 1), place)
    return candidates == tf.where(first == columns, -1, first)
