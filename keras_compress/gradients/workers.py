"""How workers reach each other: through a strategy's collectives, or as shards that one process computes in turn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_compress.gradients.message import as_integers, mean, seal, split, tag_of, unseal

Array = NDArray[np.float32]
_PLAIN = tag_of("bytes")


class Workers(ABC):
    """All workers of a training.

    Attributes:
        count: How many.
        here: Indices of those that this process computes.
    """

    count: int
    here: Sequence[int]

    @abstractmethod
    def gather(self, own: Sequence[bytes]) -> list[bytes]:
        """The messages of all workers, in their order.

        Args:
            own: Those of the workers here; each is sealed, see `message.seal`.
        """

    @abstractmethod
    def mean(self, own: Sequence[Array]) -> Array:
        """The mean over workers of a float32 vector, computed by an all-reduce: the same bits on each."""

    def gather_plain(self, own: Sequence[bytes]) -> list[bytes]:
        """Bytes of all workers that no codec wrote."""
        messages = self.gather([seal(each, _PLAIN) for each in own])
        return [unseal(each, _PLAIN, f"worker {index}'s message") for index, each in enumerate(messages)]


class Shards(Workers):
    """Workers that this process computes one after the other; one is an ordinary training.

    Args:
        count: How many, 1 at least.
    """

    def __init__(self, count: int) -> None:
        self.count, self.here = count, range(count)

    def gather(self, own: Sequence[bytes]) -> list[bytes]:
        return list(own)

    def mean(self, own: Sequence[Array]) -> Array:
        return mean(own)


class Collectives(Workers):
    """Processes that a strategy has connected, one device each.

    Args:
        strategy: `tf.distribute.MultiWorkerMirroredStrategy`.
        timeout_seconds: How long a collective waits for the slowest worker.

    Raises:
        ValueError: For several devices in a process.
    """

    def __init__(self, strategy: tf.distribute.Strategy, timeout_seconds: float) -> None:
        resolver = strategy.cluster_resolver
        index = getattr(resolver, "task_id", None) or 0
        # Not the number of replicas: one that has no cluster has none.
        self.count = strategy.num_replicas_in_sync
        local = len(strategy.extended.worker_devices)
        if local != 1:
            raise ValueError(
                "Expected one device in each process: start a process for each GPU, with CUDA_VISIBLE_DEVICES. "
                f"Received: {local} devices"
            )
        self.here = (index,)
        self._seconds = timeout_seconds
        options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=timeout_seconds)

        def gathered(values: tf.Tensor) -> tf.Tensor:
            # An argument as such has no device, which the collective asks for.
            return tf.distribute.get_replica_context().all_gather(tf.identity(values), axis=0, options=options)

        def summed(values: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(values), options=options)

        self._gather = _function(strategy, gathered, tf.int32)
        self._sum = _function(strategy, summed, tf.float32)

    def gather(self, own: Sequence[bytes]) -> list[bytes]:
        with self._all_there():
            stream = self._gather(tf.constant(as_integers(own[0]))).numpy()
        return split(stream, self.count)

    def mean(self, own: Sequence[Array]) -> Array:
        with self._all_there():
            total = self._sum(tf.constant(own[0])).numpy()
        averaged: Array = total / np.float32(self.count)
        return averaged

    @contextmanager
    def _all_there(self) -> Iterator[None]:
        try:
            yield
        except tf.errors.OpError as error:
            causes = {
                tf.errors.UnavailableError: "one is gone, killed or not to be reached",
                tf.errors.DeadlineExceededError: f"one did not answer within {self._seconds:g} s",
            }
            cause = next((said for kind, said in causes.items() if isinstance(error, kind)), type(error).__name__)
            raise RuntimeError(
                f"Expected all {self.count} workers to take part in each step. Received: {cause}. Start all of them "
                "again; with `checkpoints` they go on behind the last epoch that was kept"
            ) from error


def _function(strategy: tf.distribute.Strategy, on_worker: Callable[[Any], Any], dtype: tf.DType) -> Any:
    def run(values: tf.Tensor) -> Any:
        return strategy.run(on_worker, args=(values,))

    return tf.function(run, autograph=False, input_signature=[tf.TensorSpec([None], dtype)])
