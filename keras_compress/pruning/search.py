"""Masks of the highest scores, found for many weights in one search."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.core.ste import compiled

Tensor = Any
# Scores of a weight fill whole rows of the matrix that is searched, so that a row belongs to one weight.
ROW = 128


def keep_highest(scores: Tensor, sparsity: Tensor, ties: Tensor | None = None) -> Tensor:
    """Mask of the highest `round(n * (1 - sparsity))` scores of a flat tensor, one at least.

    Of equal ones those of highest `ties`, where they are given, and of these the first.

    >>> keep_highest(tf.constant([0.1, 0.4, 0.3, 0.2]), tf.constant(0.5)).numpy().tolist()
    [False, True, True, False]
    """
    return keep_highest_of_each([scores], [sparsity], None if ties is None else [ties])[0]


def keep_highest_of_each(
    scores: Sequence[Tensor], sparsities: Sequence[Tensor], ties: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """`keep_highest` of several flat tensors, each with a sparsity of its own, in one search.

    The thresholds are found bit by bit: 32 counts are some 15 times faster than a sort. One program for all, as
    compiling takes longer than thousands of searches.

    Args:
        scores: Flat float32 tensors of known sizes.
        sparsities: A scalar in [0, 1) for each.
        ties: Tensors in the sizes of the scores, which decide between equal ones, however near others are.

    >>> masks = keep_highest_of_each([tf.constant([1.0, 2.0]), tf.constant([3.0, 3.0])], [0.5, 0.5])
    >>> [mask.numpy().tolist() for mask in masks]
    [[False, True], [True, False]]
    """
    counts = np.array([each.shape[0] for each in scores])
    shares = 1.0 - tf.cast(tf.stack(list(sparsities)), tf.float64)
    # A weight of zeros only would cut the network in two, and could never learn again.
    kept = tf.maximum(tf.cast(tf.round(counts.astype(np.float64) * shares), tf.int32), 1)
    matrix = _in_rows(scores)
    rows = -(-counts // ROW)
    owners = np.repeat(np.arange(len(counts), dtype=np.int32), rows)
    firsts = (np.cumsum(rows) - rows).astype(np.int32)
    mask = _search(matrix, kept, owners, firsts)
    if ties is not None:
        mask = _search(_of_equals(matrix, _in_rows(ties), mask, kept, owners), kept, owners, firsts)
    masks = tf.split(tf.reshape(mask, (-1,)), rows * ROW)
    return [mask[:count] for mask, count in zip(masks, counts.tolist(), strict=True)]


def _in_rows(values: Sequence[Tensor]) -> Tensor:
    """`(rows, ROW)`, -inf behind the last of each tensor."""
    padded = [tf.pad(each, [[0, -each.shape[0] % ROW]], constant_values=-np.inf) for each in values]
    return tf.reshape(tf.concat(padded, 0), (-1, ROW))


@compiled
def _search(matrix: Tensor, kept: Tensor, owners: Tensor, firsts: Tensor) -> Tensor:
    """Mask of the highest scores of each weight.

    Args:
        matrix: `(rows, ROW)` scores, -inf behind the last of each weight.
        kept: For each weight, how many are kept, at least 1.
        owners: For each row, whose it is.
        firsts: For each weight, its first row.
    """
    rows, weights = matrix.shape[0], kept.shape[0]

    def by_row(values: Tensor) -> Tensor:
        return tf.gather(values, owners)[:, None]

    def count(condition: Tensor) -> Tensor:
        return tf.math.unsorted_segment_sum(tf.reduce_sum(tf.cast(condition, tf.int32), 1), owners, weights)

    ordered = _ordered_integers(matrix)
    threshold = by_row(_highest_integers(-(2**31), 32, weights, lambda at: count(ordered >= by_row(at)) >= kept))
    above, equal = ordered > threshold, ordered == threshold
    index = (tf.range(rows)[:, None] - by_row(firsts)) * ROW + tf.range(ROW)
    missing = kept - count(above)
    bits = math.ceil(math.log2(rows * ROW + 1))
    last = _highest_integers(0, bits, weights, lambda at: count(equal & (index < by_row(at))) < missing)
    return above | (equal & (index <= by_row(last)) & (by_row(missing) > 0))


@compiled
def _of_equals(matrix: Tensor, ties: Tensor, mask: Tensor, kept: Tensor, owners: Tensor) -> Tensor:
    """Scores that rank by `ties` what equals the lowest that a mask keeps; what is higher stays in, the rest out."""
    ordered = _ordered_integers(matrix)
    of_rows = tf.reduce_min(tf.where(mask, ordered, 2**31 - 1), 1)
    lowest = tf.gather(tf.math.unsorted_segment_min(of_rows, owners, kept.shape[0]), owners)[:, None]
    return tf.where(ordered > lowest, np.inf, tf.where(ordered == lowest, ties, -np.inf))


def _ordered_integers(scores: Tensor) -> Tensor:
    """int32 numbers in the order of the float32 ones; -0.0 equals 0.0."""
    bits = tf.bitcast(tf.where(scores == 0.0, tf.zeros_like(scores), scores), tf.int32)
    return tf.where(bits < 0, tf.bitwise.bitwise_xor(bits, 0x7FFFFFFF), bits)


def _highest_integers(start: int, bits: int, count: int, holds: Callable[[Tensor], Tensor]) -> Tensor:
    """The highest int32 numbers for which conditions hold that hold up to some number and no further."""
    powers = tf.constant([-(2**31) if bit == 31 else 2**bit for bit in reversed(range(bits))])

    def try_bit(position: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        candidate = tf.bitwise.bitwise_xor(found, powers[position])
        return position + 1, tf.where(holds(candidate), candidate, found)

    begin = (tf.constant(0), tf.fill([count], start))
    return tf.while_loop(lambda position, found: position < bits, try_bit, begin)[1]
