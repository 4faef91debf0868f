"""Traces of the Hessian of a loss by Hutchinson's estimator: how the loss bends in the direction of each weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_compress.core.quiet import quiet_tensorflow

Watch = Callable[[Any], Any]
# `(watch, *batch) -> (value, sources)`: tensors among the sources have gone through `watch`.
Recorded = Callable[..., tuple[Any, list[Any]]]


def hutchinson(
    function: Recorded,
    batches: Sequence[tuple[Any, ...]],
    sizes: Sequence[int],
    samples: int,
    seed: int,
    groups: Sequence[Sequence[int]],
) -> NDArray[np.float64]:
    """Traces of the diagonal blocks of a Hessian, one for each source.

    `Tr(H_i) = E[v_i^T (H v)_i]` with entries of `v` that are 1 or -1 with equal probability: what other blocks add has
    the mean 0, so that one product serves all blocks of a group. Between groups nothing is added.

    Args:
        function: Computes a value, of which there is one mean over all batches, and gives what to differentiate by.
        batches: Further arguments of it.
        sizes: Weight of each batch in the mean.
        samples: How many vectors `v` for each batch.
        seed: Of the vectors.
        groups: Numbers of the sources that share a product, each in one group.

    **Reference**: Hutchinson (1990); Dong et al., "HAWQ-V2" (2020), section 3.1.

    >>> x = tf.Variable([1.0, 2.0])
    >>> hutchinson(lambda watch: (tf.reduce_sum([3.0, 5.0] * x * x), [x]), [()], [1], 1, 0, [[0]]).tolist()
    [16.0]
    """
    product = tf.function(
        lambda seeds, chosen, batch: _products(function, seeds, chosen, batch), autograph=False, reduce_retracing=True
    )
    count = sum(map(len, groups))
    masks = [tf.constant([float(n in group) for n in range(count)]) for group in groups if group]

    def of_batch(index: int, batch: tuple[Any, ...]) -> NDArray[np.float64]:
        drawn = [tf.constant([seed + index, number]) for number in range(samples)]
        rows = [[[float(n) for n in product(seeds, mask, batch)] for mask in masks] for seeds in drawn]
        return np.sum(np.mean(rows, axis=0), axis=0)  # type: ignore[no-any-return]

    with quiet_tensorflow():
        found = [of_batch(index, batch) for index, batch in enumerate(batches)]
    traces: NDArray[np.float64] = np.average(found, axis=0, weights=list(sizes))
    return traces


def _products(function: Recorded, seeds: Any, chosen: Any, batch: tuple[Any, ...]) -> list[Any]:
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:

            def watch(tensor: Any) -> Any:
                # A model reads its own variables; other tensors are handed on.
                tensor = tensor if isinstance(tensor, tf.Variable) else tf.identity(tensor)
                inner.watch(tensor)
                outer.watch(tensor)
                return tensor

            value, sources = function(watch, *batch)
        gradients = inner.gradient(value, sources, unconnected_gradients="zero")
        vectors = [
            _signs(source, seeds + tf.constant([0, 7919 * n])) * tf.cast(chosen[n], source.dtype)
            for n, source in enumerate(sources)
        ]
        along = tf.add_n([tf.reduce_sum(g * v) for g, v in zip(gradients, vectors, strict=True)])
    products = outer.gradient(along, sources, unconnected_gradients="zero")
    return [tf.reduce_sum(h * v) for h, v in zip(products, vectors, strict=True)]


def _signs(source: Any, seeds: Any) -> Any:
    bits = tf.random.stateless_uniform(tf.shape(source), seeds, 0, 2, tf.int32)
    return tf.cast(2 * bits - 1, source.dtype)
