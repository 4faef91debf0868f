"""Compiled forward and backward passes of weight clustering.

A weight is a matrix `(groups, n)`: one row for the whole tensor, or one for each channel. There is no `n x k` distance
matrix: with sorted centroids the nearest one follows from comparisons with the middles between neighbours, which XLA
fuses into a single pass.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from keras_compress.core.kernels import Kernel, worth_compiling
from keras_compress.core.ste import shared

Tensor = Any
# Up to here a chain of comparisons is faster than a binary search.
LONGEST_CHAIN = 32


@dataclass(frozen=True)
class Layout:
    """How a weight lies as a matrix with one row for each codebook.

    Attributes:
        shape: Shape of the weight; empty where there is one codebook, so that all such weights have one layout.
        channel_axes: Axes whose every index has a codebook of its own; empty for one codebook.
    """

    shape: tuple[int, ...]
    channel_axes: tuple[int, ...] = ()

    @property
    def groups(self) -> int:
        """Number of codebooks."""
        return math.prod(self.shape[axis] for axis in self.channel_axes)

    @property
    def _order(self) -> list[int]:
        return [*self.channel_axes, *(a for a in range(len(self.shape)) if a not in self.channel_axes)]

    def to_matrix(self, weight: Tensor) -> Tensor:
        """The weight as `(groups, n)`."""
        if not self.channel_axes:
            return tf.reshape(weight, [1, -1])
        weight = tf.transpose(weight, self._order)
        return tf.reshape(weight, [self.groups, math.prod(self.shape) // self.groups])

    def from_matrix(self, matrix: Tensor, weight: Tensor) -> Tensor:
        """The weight in its own shape again, that of the one given."""
        if not self.channel_axes:
            known = weight.shape.is_fully_defined()
            return tf.reshape(matrix, weight.shape if known else tf.shape(weight))
        order = self._order
        moved = tf.reshape(matrix, [self.shape[axis] for axis in order])
        return tf.transpose(moved, sorted(range(len(order)), key=order.__getitem__))


@shared([tf.TensorSpec([None, None], tf.float32)])
def _sorted_middles(centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The centroids in order, the middles between neighbours, and where in that order each centroid is.

    A sort is long to compile, and these are few numbers.
    """
    order = tf.argsort(centroids, axis=-1, stable=True)
    ordered = tf.gather(centroids, order, batch_dims=1)
    return ordered, (ordered[:, 1:] + ordered[:, :-1]) / 2.0, tf.argsort(order, axis=-1)


def _chained(weight: Tensor, count: int) -> bool:
    """Whether comparisons with each middle, in one pass, are faster than a search for each weight."""
    return count <= LONGEST_CHAIN and worth_compiling(weight)


def _rank(weight: Tensor, middles: Tensor) -> Tensor:
    """Position of the nearest centroid in the sorted row; a tie goes to the lower one."""
    count = middles.shape[1] or LONGEST_CHAIN + 1
    if not _chained(weight, count):
        # `tf.searchsorted` is this and a dozen nodes for shapes that do not occur here.
        return tf.raw_ops.LowerBound(sorted_inputs=middles, values=weight)
    rank = tf.zeros(weight.shape, tf.int32)
    for j in range(count):
        rank += tf.cast(weight > middles[:, j : j + 1], tf.int32)
    return rank


def _lookup(weight: Tensor, ordered: Tensor, middles: Tensor) -> Tensor:
    count = middles.shape[1] or LONGEST_CHAIN + 1
    if not _chained(weight, count):
        return tf.gather(ordered, _rank(weight, middles), batch_dims=1)
    value = tf.broadcast_to(ordered[:, :1], weight.shape)
    for j in range(count):
        value = tf.where(weight > middles[:, j : j + 1], ordered[:, j + 1 : j + 2], value)
    return value


def _sum_by_rank(upstream: Tensor, rank: Tensor, count: Tensor) -> Tensor:
    groups = rank.shape[0]
    if groups == 1:
        return tf.math.unsorted_segment_sum(upstream[0], rank[0], count)[None]
    flat = rank + tf.range(groups, dtype=tf.int32)[:, None] * count
    sums = tf.math.unsorted_segment_sum(tf.reshape(upstream, [-1]), tf.reshape(flat, [-1]), groups * count)
    return tf.reshape(sums, [groups, count])


def _length(rows: Tensor) -> Any:
    return tf.shape(rows)[1] if rows.shape[1] is None else int(rows.shape[1])


def _with_zero(centroids: Tensor) -> Tensor:
    """The codebook with 0 behind the trained centroids."""
    return tf.concat([centroids, tf.zeros_like(centroids[:, :1])], axis=1)


@functools.cache
def nearest_kernel(layout: Layout, keep_zeros: bool) -> Kernel:
    """`weight, centroids -> weight` with assignments that follow the weight; its gradient goes straight through.

    With `keep_zeros`, 0 is one more centroid, which is not trained: a weight that is 0 stays 0.
    """

    def prepare(centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        table = _with_zero(centroids) if keep_zeros else centroids
        ordered, middles, places = _sorted_middles(table)
        rows, count = table.shape
        for found, length in ((ordered, count), (middles, count - 1), (places, count)):
            found.set_shape([rows, length])
        return ordered, middles, places

    def forward(weight: Tensor, ordered: Tensor, middles: Tensor, places: Tensor) -> Tensor:
        return layout.from_matrix(_lookup(layout.to_matrix(weight), ordered, middles), weight)

    def state_gradients(
        upstream: Tensor, weight: Tensor, ordered: Tensor, middles: Tensor, places: Tensor
    ) -> tuple[Tensor]:
        rank = _rank(layout.to_matrix(weight), middles)
        sums = _sum_by_rank(layout.to_matrix(upstream), rank, _length(ordered))
        by_centroid = tf.gather(sums, places, batch_dims=1)
        return (by_centroid[:, :-1] if keep_zeros else by_centroid,)

    return Kernel(
        forward, state_gradients=state_gradients, exact=True, any_shape=not layout.channel_axes, prepare=prepare
    )


@functools.cache
def codebook_kernel(layout: Layout, keep_zeros: bool) -> Kernel:
    """`weight, assignments, centroids -> weight` with assignments that stay; the weight itself gets gradient 0.

    With `keep_zeros`, the index one past the last centroid stands for 0, and so does a weight that is 0: it may have
    been pruned since the assignments were made.
    """

    def index_of(weight: Tensor, assignments: Tensor, centroids: Tensor) -> Tensor:
        if not keep_zeros:
            return assignments
        return tf.where(layout.to_matrix(weight) == 0.0, int(centroids.shape[1]), assignments)

    def forward(weight: Tensor, assignments: Tensor, centroids: Tensor) -> Tensor:
        table = _with_zero(centroids)
        return layout.from_matrix(tf.gather(table, index_of(weight, assignments, centroids), batch_dims=1), weight)

    def state_gradients(
        upstream: Tensor, weight: Tensor, assignments: Tensor, centroids: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        index = index_of(weight, assignments, centroids)
        return None, _sum_by_rank(layout.to_matrix(upstream), index, int(centroids.shape[1]) + 1)[:, :-1]

    # Zeros rather than no gradient at all, of which Keras would warn in every training.
    return Kernel(forward, lambda upstream, *_: tf.zeros_like(upstream), state_gradients, exact=True)
