"""Data-parallel training: every worker computes the gradients of its share of a batch, and all apply their mean."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.core.history import Record, keep
from keras_compress.core.registry import resolve
from keras_compress.core.warn import warn
from keras_compress.gradients.codec import GradientCodec
from keras_compress.gradients.workers import Collectives, Shards, Workers
from keras_compress.pipelines.distributed_checkpoints import EpochCheckpoints
from keras_compress.pipelines.distributed_data import Shares
from keras_compress.pipelines.distributed_step import Exchange, Replica, Traffic


@dataclass(frozen=True)
class TrainedByWorkers(Record):
    """What `summary` tells of such a training."""

    workers: int
    codec: str
    traffic: Traffic

    def lines(self) -> Sequence[str]:
        sent = self.traffic
        return (
            f"trained by {self.workers} worker{'s' * (self.workers > 1)}, gradients by {self.codec}: "
            f"{sent.bytes_per_step:,.0f} bytes a step from each, {sent.times_fewer:.1f} times fewer than float32",
        )


class DistributedTrainer:
    """Trains a model on several workers, each with a share of every batch.

    ```python
    strategy = tf.distribute.MultiWorkerMirroredStrategy()      # before any other TensorFlow operation
    model = kc.prune_low_magnitude(make_model(), schedule)      # not in the strategy's scope
    model.compile("sgd", loss, metrics=["accuracy"])
    trainer = kc.DistributedTrainer(model, kc.SketchML(), strategy=strategy, checkpoints="run1")
    history = trainer.fit(x, y, batch_size=256, epochs=3)
    ```

    The model is an ordinary one in each process; the trainer holds them equal: all begin with the first worker's
    variables; each step applies the same averaged gradients everywhere; trained ranges, and whatever else is a mean
    of what workers see, are averaged in each step, BatchNormalization's moving averages at the end of an epoch. That
    weights and optimizers are equal is checked then.

    With a codec a worker sends one message a step, all read those of all, and no all-reduce follows. Without, float32
    gradients go through the strategy's all-reduce.

    Args:
        model: Built and compiled, with Keras's own `train_step`.
        codec: Object or name of the registry's `"gradient_codec"`; `None` for float32.
        strategy: `tf.distribute.MultiWorkerMirroredStrategy`, one device in each process; `None` for one process.
        workers: Without a strategy: shards of a batch, whose gradients this process computes in turn, with messages
            as between processes.
        checkpoints: Folder that all workers reach, in which each finished epoch is kept: a training that is started
            again with the same arguments goes on behind the last one. One that a callback stopped stays stopped.
        timeout_seconds: How long a step waits for the slowest worker, > 0.

    Attributes:
        traffic: Bytes and seconds of all steps of the last `fit`.

    Raises:
        ValueError: For a model that is not built or compiled, or that was made in the strategy's scope; for a loss that
            is a sum over samples, on several workers; for arguments out of range.
    """

    def __init__(
        self,
        model: keras.Model,
        codec: GradientCodec | str | dict[str, Any] | None = None,
        *,
        strategy: tf.distribute.Strategy | None = None,
        workers: int = 1,
        checkpoints: str | os.PathLike[str] | None = None,
        timeout_seconds: float = 600.0,
    ) -> None:
        self.model = model
        self.codec: GradientCodec | None = None if codec is None else resolve("gradient_codec", codec)
        _check(model, self.codec)
        if not timeout_seconds > 0:
            raise ValueError(f"Expected `timeout_seconds` > 0. Received: timeout_seconds={timeout_seconds}")
        self._workers = _workers(strategy, workers, timeout_seconds)
        if self._workers.count > 1:
            _check_losses(model)
        self._checkpoints = checkpoints
        self.traffic = Traffic()

    @property
    def is_first(self) -> bool:
        """Whether this process has the first worker: the one to print and to save."""
        return 0 in self._workers.here

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int = 128,
        epochs: int = 1,
        validation_data: Any = None,
        shuffle: bool = True,
        seed: int = 0,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        sharded: bool = False,
        verbose: int = 0,
    ) -> keras.callbacks.History:
        """Train, as `keras.Model.fit` does; every worker calls it with the same arguments.

        Args:
            x: Arrays, or a `tf.data.Dataset` of batches of all workers together, of which each takes its share.
            y: Targets of arrays.
            batch_size: Samples in a step of all workers, for arrays. A rest smaller than the number of workers is
                left out.
            epochs: Epochs.
            validation_data: Arrays `(x, y)` or a dataset; each worker evaluates all of it.
            shuffle: Draw an order of arrays for each epoch.
            seed: Of these orders.
            callbacks: Keras's, on each worker. In the logs of an epoch, losses and metrics are those of all workers,
                and `bytes_per_step` what one sent in a step; in those of a batch, the loss and metrics of this worker
                so far.
            sharded: The dataset has the samples of this worker only (`dataset.shard(count, index)`): an epoch ends
                where one of them does, and all count the same.
            verbose: As for Keras's `fit`.

        Returns:
            The history of the epochs that were trained now.

        Raises:
            ValueError: For data that cannot be shared, a damaged message, or gradients that are not finite.
            RuntimeError: Where a worker is gone, or workers have come to differ.
        """
        shares = Shares(
            x,
            y,
            batch_size=batch_size,
            count=self._workers.count,
            here=self._workers.here,
            seed=seed if shuffle else None,
            sharded=sharded,
        )
        exchange = Exchange(Replica(self.model), self._workers, self.codec)
        kept = self._opened()
        first, stopped = kept.restore(exchange) if kept else (0, False)
        exchange.begin_equal()
        self.traffic = Traffic()
        told = self._told(callbacks, epochs=epochs, steps=shares.steps, verbose=verbose)
        self.model.stop_training = False
        told.on_train_begin()
        logs: dict[str, Any] = {}
        for epoch in range(first, first if stopped else epochs):
            told.on_epoch_begin(epoch)
            logs = self._epoch(exchange, shares, epoch, told)
            logs |= self._validated(validation_data)
            told.on_epoch_end(epoch, logs)
            stopped = self._one_says(self.model.stop_training)
            if kept:
                kept.save(exchange, epoch + 1, stopped=stopped)
            if stopped:
                break
        self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
        told.on_train_end(logs)
        keep(self.model, TrainedByWorkers(self._workers.count, self._codec_name(), self.traffic))
        return self.model.history

    def _told(self, callbacks: Sequence[keras.callbacks.Callback], **params: Any) -> Any:
        """The callbacks, the history among them."""
        bar = params["verbose"] != 0
        return keras.callbacks.CallbackList(
            list(callbacks), add_history=True, add_progbar=bar, model=self.model, **params
        )

    def _opened(self) -> EpochCheckpoints | None:
        if self._checkpoints is None:
            return None
        return EpochCheckpoints(self._checkpoints, {"codec": self._codec_name(), "workers": self._workers.count})

    def _codec_name(self) -> str:
        return "float32" if self.codec is None else repr(self.codec)

    def _epoch(self, exchange: Exchange, shares: Shares, number: int, told: Any) -> dict[str, Any]:
        self.model.reset_metrics()
        batches: Iterator[Any] = iter(shares.epoch(number))
        sum_of_epoch, step = Traffic(), 0
        while (batch := self._next(batches, shares)) is not None:
            told.on_train_batch_begin(step)
            sum_of_epoch = sum_of_epoch.added(exchange.step(batch))
            told.on_train_batch_end(step, _numbers(self.model.get_metrics_result()))
            step += 1
            # Workers elsewhere would wait: they are asked at the end of the epoch.
            if self.model.stop_training and self._all_here:
                break
        if not step:
            raise ValueError("Expected a batch at least in an epoch, on each worker. Received: none")
        exchange.settle()
        self.traffic = self.traffic.added(sum_of_epoch)
        return {**self._metrics_of_all(), "bytes_per_step": sum_of_epoch.bytes_per_step}

    @property
    def _all_here(self) -> bool:
        return self._workers.count == len(self._workers.here)

    def _next(self, batches: Iterator[Any], shares: Shares) -> Any:
        """The shares of the next step; `None` where one of the workers has no data left."""
        batch = next(batches, None)
        # Where all have the same data, all know where they end.
        if shares.all_end_alike or self._all_here:
            return batch
        return None if self._one_says(batch is None) else batch

    def _metrics_of_all(self) -> dict[str, float]:
        """Losses and metrics over the samples of all workers: what Keras's metrics add up is added once more."""
        if not self._all_here:
            variables = [v for metric in self.model.metrics for v in metric.variables]
            own = b"".join(np.asarray(v.value, "<f8").tobytes() for v in variables)
            total = np.sum([np.frombuffer(each, "<f8") for each in self._workers.gather_plain([own])], axis=0)
            at = 0
            for variable in variables:
                size = int(np.prod(variable.shape))
                variable.assign(total[at : at + size].reshape(variable.shape))
                at += size
        return _numbers(self.model.get_metrics_result())

    def _validated(self, data: Any) -> dict[str, float]:
        if data is None:
            return {}
        given = data if isinstance(data, (tuple, list)) else (data,)
        found = self.model.evaluate(*given, verbose=0, return_dict=True)
        return {f"val_{name}": float(value) for name, value in found.items()}

    def _one_says(self, own: bool) -> bool:
        """Whether something is so on one of the workers at least."""
        return b"\x01" in self._workers.gather_plain([b"\x01" if own else b"\x00"] * len(self._workers.here))


def _numbers(logs: dict[str, Any]) -> dict[str, float]:
    return {name: float(np.asarray(value)) for name, value in logs.items()}


def _workers(strategy: Any, workers: int, timeout_seconds: float) -> Workers:
    if strategy is not None:
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            raise ValueError(
                f"Expected `strategy` as tf.distribute.MultiWorkerMirroredStrategy, or None. Received: {strategy!r}"
            )
        if workers != 1:
            raise ValueError(
                f"Expected `strategy` or `workers`: a strategy knows how many. Received: workers={workers}"
            )
        return Collectives(strategy, timeout_seconds)
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
        raise ValueError(f"Expected `workers` as an integer from 1. Received: workers={workers!r}")
    return Shards(workers)


def _check(model: Any, codec: Any) -> None:
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"Expected a built Keras model. Received: {model!r}")
    if not isinstance(codec, GradientCodec) and codec is not None:
        raise ValueError(f"Expected a gradient codec, such as SketchML(). Received: codec={codec!r}")
    if not model.compiled or model.optimizer is None:
        raise ValueError(f"Expected a compiled model. Received: {model.name!r}, which has no optimizer")
    if type(model).train_step is not keras.Model.train_step:
        raise ValueError(
            f"Expected a model with Keras's own train_step. Received: {model.name!r}, whose class "
            f"{type(model).__name__} has another one"
        )
    if isinstance(model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise ValueError(
            "Expected a model made outside the strategy's scope: the trainer holds workers equal. "
            f"Received: {model.name!r}, made within it"
        )
    # A LossScaleOptimizer has another one in it.
    if codec is not None and hasattr(model.optimizer, "inner_optimizer"):
        raise ValueError(
            "Expected gradients that are not scaled: mixed_bfloat16 or float32 with a codec. "
            "Received: a LossScaleOptimizer"
        )
    # Only SGD has a momentum by this name.
    if codec is not None and codec.corrects_momentum and getattr(model.optimizer, "momentum", None) != 0:
        warn(f"{codec!r} has a momentum of its own: SGD without momentum is what its paper trains with.")


def _check_losses(model: keras.Model) -> None:
    """The mean of the workers' gradients is that of the batch where losses are means; of sums it is a part."""
    for loss in keras.tree.flatten(model.loss):
        reduction = getattr(loss, "reduction", "sum_over_batch_size") if isinstance(loss, keras.losses.Loss) else ""
        if reduction in ("sum", "none", None):
            raise ValueError(
                "Expected losses that are means over samples, as reduction='sum_over_batch_size' gives, on several "
                f"workers: their gradients are averaged. Received: {loss.name!r} with reduction={reduction!r}"
            )
