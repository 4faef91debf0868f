"""Which samples of a batch are whose, for workers that train together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# `(x, y, sample_weight, scale)`: the loss, a mean over samples, counts `scale` times.
Share = tuple[Any, Any, Any, float]


class Shares:
    """The batches of an epoch, cut into shares of neighbouring samples, one for each worker.

    Args:
        x: Arrays, or a `tf.data.Dataset` of batches `(x, y)` or `(x, y, sample_weight)`.
        y: Targets of arrays.
        batch_size: Samples of a batch of all workers together, for arrays.
        count: Workers.
        here: Indices of those whose shares are wanted.
        seed: Of the order of arrays, drawn anew for each epoch; `None` leaves it.
        sharded: The dataset has this worker's samples only.

    Raises:
        ValueError: For data that cannot be shared, or batches smaller than the number of workers.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        *,
        batch_size: int,
        count: int,
        here: Sequence[int],
        seed: int | None,
        sharded: bool,
    ) -> None:
        self._is_dataset = isinstance(x, tf.data.Dataset)
        if not self._is_dataset and y is None:
            raise ValueError("Expected `y` beside arrays, or a tf.data.Dataset of batches (x, y). Received: y=None")
        if sharded and (not self._is_dataset or len(here) > 1):
            raise ValueError(
                "Expected `sharded=True` with a tf.data.Dataset in a process for each worker. "
                f"Received: {type(x).__name__}, {len(here)} workers here"
            )
        if not self._is_dataset and batch_size < count:
            raise ValueError(f"Expected a batch_size of {count} at least, one for each worker. Received: {batch_size}")
        self._x, self._y, self._batch_size, self._sharded = x, y, batch_size, sharded
        self._count, self._here, self._seed = count, here, seed

    @property
    def steps(self) -> int | None:
        """Steps of an epoch; `None` where nobody knows."""
        if self._is_dataset:
            cardinality = int(self._x.cardinality())
            return cardinality if cardinality >= 0 else None
        whole, rest = divmod(self._samples, self._batch_size)
        return whole + (rest >= self._count)

    @property
    def all_end_alike(self) -> bool:
        """Whether all workers have the same data, and so as many steps."""
        return not self._sharded

    @property
    def _samples(self) -> int:
        return len(keras.tree.flatten(self._x)[0])

    def epoch(self, number: int) -> Iterator[list[Share]]:
        """The shares of the workers here, step by step."""
        for batch in self._batches(number):
            x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
            if self._sharded:
                yield [(x, y, weight, 1.0)]
            else:
                yield [self._share((x, y, weight), worker) for worker in self._here]

    def _batches(self, number: int) -> Iterator[Any]:
        if self._is_dataset:
            yield from self._x
            return
        order = np.arange(self._samples)
        if self._seed is not None:
            order = np.random.default_rng([self._seed, number]).permutation(self._samples)
        for step in range(self.steps or 0):
            chosen = order[step * self._batch_size : (step + 1) * self._batch_size]
            yield keras.tree.map_structure(
                lambda values, at=chosen: tf.constant(np.asarray(values)[at]), (self._x, self._y)
            )

    def _share(self, batch: Any, worker: int) -> Share:
        rows = int(keras.tree.flatten(batch[0])[0].shape[0])
        if rows < self._count:
            raise ValueError(
                f"Expected batches of {self._count} samples at least, one for each worker. Received: {rows}"
            )
        size, rest = divmod(rows, self._count)
        begin = worker * size + min(worker, rest)
        end = begin + size + (worker < rest)
        x, y, weight = keras.tree.map_structure(lambda values: None if values is None else values[begin:end], batch)
        return x, y, weight, (end - begin) * self._count / rows
