"""Compiled forward and backward passes of weight clustering.

A weight is a matrix `(groups, n)`: one row for the whole tensor, or one for each channel. There is no `n x k` distance
matrix: with sorted centroids the nearest one follows from comparisons with the middles between neighbours, which XLA
fuses into a single pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_compress.core.ste import compiled

Tensor = Any
# Up to here a chain of comparisons is faster than a binary search.
LONGEST_CHAIN = 32


def _sorted_middles(centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    order = tf.argsort(centroids, axis=-1, stable=True)
    ordered = tf.gather(centroids, order, batch_dims=1)
    return order, ordered, (ordered[:, 1:] + ordered[:, :-1]) / 2.0


def _rank(weight: Tensor, middles: Tensor) -> Tensor:
    """Position of the nearest centroid in the sorted row; a tie goes to the lower one."""
    count = middles.shape[1]
    if count > LONGEST_CHAIN:
        return tf.searchsorted(middles, weight, side="left")
    rank = tf.zeros(weight.shape, tf.int32)
    for j in range(count):
        rank += tf.cast(weight > middles[:, j : j + 1], tf.int32)
    return rank


def _lookup(weight: Tensor, ordered: Tensor, middles: Tensor) -> Tensor:
    count = middles.shape[1]
    if count > LONGEST_CHAIN:
        return tf.gather(ordered, _rank(weight, middles), batch_dims=1)
    value = tf.broadcast_to(ordered[:, :1], weight.shape)
    for j in range(count):
        value = tf.where(weight > middles[:, j : j + 1], ordered[:, j + 1 : j + 2], value)
    return value


def _sum_by_rank(upstream: Tensor, rank: Tensor, count: int) -> Tensor:
    groups = rank.shape[0]
    flat = rank + tf.range(groups, dtype=tf.int32)[:, None] * count
    sums = tf.math.unsorted_segment_sum(tf.reshape(upstream, [-1]), tf.reshape(flat, [-1]), groups * count)
    return tf.reshape(sums, [groups, count])


@functools.lru_cache(maxsize=None)
def nearest_kernels(keep_zeros: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`forward(weight, centroids)` and `backward(weight, centroids, upstream)` with assignments that follow the weight.

    With `keep_zeros`, a weight that is 0 stays 0 and belongs to no centroid.
    """

    def forward(weight: Tensor, centroids: Tensor) -> Tensor:
        _, ordered, middles = _sorted_middles(centroids)
        value = _lookup(weight, ordered, middles)
        return tf.where(weight == 0.0, tf.zeros_like(value), value) if keep_zeros else value

    def backward(weight: Tensor, centroids: Tensor, upstream: Tensor) -> Tensor:
        order, _, middles = _sorted_middles(centroids)
        if keep_zeros:
            upstream = tf.where(weight == 0.0, tf.zeros_like(upstream), upstream)
        sums = _sum_by_rank(upstream, _rank(weight, middles), int(centroids.shape[1]))
        return tf.gather(sums, tf.argsort(order, axis=-1), batch_dims=1)

    return compiled(forward), compiled(backward)


@compiled
def gather_forward(assignments: Tensor, centroids: Tensor) -> Tensor:
    """Centroid of each assignment; one past the last centroid stands for 0."""
    table = tf.concat([centroids, tf.zeros_like(centroids[:, :1])], axis=1)
    return tf.gather(table, assignments, batch_dims=1)


@compiled
def gather_backward(assignments: Tensor, centroids: Tensor, upstream: Tensor) -> Tensor:
    """Summed gradients of the weights of each centroid."""
    return _sum_by_rank(upstream, assignments, int(centroids.shape[1]) + 1)[:, :-1]
