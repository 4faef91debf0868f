"""One step of data-parallel training: gradients of each worker's share, exchanged, averaged, applied on each worker."""

from __future__ import annotations

import inspect
import math
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_compress.core import keras_private
from keras_compress.gradients.codec import GradientCodec, Shapes, WorkerState, float_bytes, sizes
from keras_compress.gradients.message import HEADER_BYTES, Reader, Writer, mean
from keras_compress.gradients.workers import Workers
from keras_compress.pipelines.distributed_data import Share

Array = NDArray[np.float32]
# In place of the number of statistics: what follows is why a worker has no gradients.
_FAILED = 2**32 - 1
# Averaged gradients in the order of their names, averaged statistics one behind the other, and what was sent.
Exchanged = tuple[list[Array], Array, "Traffic"]


@dataclass
class Traffic:
    """What a worker sent, in the mean of all, and what it took to write and read it.

    Attributes:
        steps: Steps counted.
        sent_bytes: Bytes that a worker sent in them, each time to all others: lengths of messages.
        float32_bytes: Bytes of its gradients in float32.
        codec_seconds: CPU time to write its messages and to read those of all: of one thread, as codecs use.
    """

    steps: int = 0
    sent_bytes: int = 0
    float32_bytes: int = 0
    codec_seconds: float = 0.0

    @property
    def bytes_per_step(self) -> float:
        """Mean bytes that a worker sends in a step."""
        return self.sent_bytes / max(self.steps, 1)

    @property
    def times_fewer(self) -> float:
        """How many times more float32 would take."""
        return self.float32_bytes / max(self.sent_bytes, 1)

    def added(self, other: Traffic) -> Traffic:
        """The sum of two."""
        return Traffic(
            self.steps + other.steps,
            self.sent_bytes + other.sent_bytes,
            self.float32_bytes + other.float32_bytes,
            self.codec_seconds + other.codec_seconds,
        )


class Replica:
    """A model as one worker has it: its gradients, what a forward pass changes, and its optimizer.

    Args:
        model: Built and compiled.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.optimizer = model.optimizer
        self.optimizer.build(model.trainable_variables)
        self._trained: list[Any] = list(model.trainable_variables)
        self._has_training = "training" in inspect.signature(model.call).parameters
        # What workers must have in common at every step: ranges, and what else says that it is a mean or a sum.
        shared = [v for v in model.variables if v.aggregation in ("mean", "sum") and "float" in str(v.dtype)]
        self.exchanged = shared
        known = {id(v) for v in shared}
        trained = {id(v) for v in self._trained}
        # What else a forward pass may change: settled at the end of an epoch.
        self.settled = [v for v in model.variables if id(v) not in known | trained]
        self._differentiate = tf.function(self._gradients, autograph=False, reduce_retracing=True)
        self._update = tf.function(self._apply, autograph=False)
        # A program for each training is what is wanted; TensorFlow would warn of "retracing" at the fifth.
        for function in (self._differentiate, self._update):
            keras_private.without_tracing_warning(function)
        self._names: list[str] = []

    @property
    def shapes(self) -> Shapes:
        """Name -> shape of each gradient there is; known behind the first call of `gradients`."""
        return {name: tuple(v.shape) for name, v in zip(self._names, self._trained, strict=True)}

    def gradients(self, x: Any, y: Any, sample_weight: Any, scale: float) -> dict[str, Array]:
        """The gradients of a batch, whose loss counts `scale` times; metrics take the batch in."""
        found = self._differentiate(x, y, sample_weight, tf.constant(scale, tf.float32))
        return {name: each.numpy() for name, each in zip(self._names, found, strict=True)}

    def _gradients(self, x: Any, y: Any, sample_weight: Any, scale: Any) -> list[Any]:
        model = self.model
        with tf.GradientTape() as tape:
            outputs = model(x, **({"training": True} if self._has_training else {}))
            loss = model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=sample_weight, training=True)
            counted = self.optimizer.scale_loss(tf.cast(loss, tf.float32) * scale)
        variables = list(model.trainable_variables)
        found = tape.gradient(counted, [v.value for v in variables])
        rows = tf.shape(keras.tree.flatten(x)[0])[0]
        model.metrics[0].update_state(loss, sample_weight=rows)
        model.compute_metrics(x, y, outputs, sample_weight)
        pairs = [(v, _dense(each, v)) for v, each in zip(variables, found, strict=True) if each is not None]
        self._trained = [v for v, _ in pairs]
        # By their places: paths begin with names that Keras draws, and a training that goes on has others.
        self._names = [f"{place:03}/{v.name}" for place, v in enumerate(self._trained)]
        return [each for _, each in pairs]

    def with_paths(self, said: str) -> str:
        """A text in which weights are called by their paths, which have their layers' names."""
        for name, variable in zip(self._names, self._trained, strict=True):
            said = said.replace(repr(name), repr(variable.path))
        return said

    def apply(self, gradients: Iterable[Array]) -> None:
        """One step of the optimizer."""
        self._update([tf.constant(each) for each in gradients])

    def _apply(self, gradients: Sequence[Any]) -> None:
        self.optimizer.apply(list(gradients), self._trained)


class Exchange:
    """Runs steps.

    Several workers in one process have one model, but what forward passes move in it, each has of its own.

    Args:
        replica: The model, as all workers begin with it.
        workers: All workers.
        codec: How gradients are written; `None` for float32 and an all-reduce.
    """

    def __init__(self, replica: Replica, workers: Workers, codec: GradientCodec | None) -> None:
        self.replica, self.workers, self.codec = replica, workers, codec
        self.states: dict[int, WorkerState] = {}
        self._moved = [*replica.exchanged, *replica.settled]
        several = len(workers.here) > 1
        self._kept = {worker: _values(self._moved) for worker in workers.here} if several else {}

    def step(self, batches: Sequence[Share]) -> Traffic:
        """One step of all workers.

        Args:
            batches: For each worker here.

        Raises:
            ValueError: For a damaged message, or gradients that the codec does not take.
            RuntimeError: Where a worker is gone.
        """
        found = [self._local(worker, batch) for worker, batch in zip(self.workers.here, batches, strict=True)]
        exchanged = self._reduced(found) if self.codec is None else self._coded(self.codec, found)
        gradients, statistics, traffic = exchanged
        self._assign_statistics(statistics)
        self.replica.apply(gradients)
        common = _values(self.replica.exchanged)
        for kept in self._kept.values():
            kept[: len(common)] = common
        return traffic

    def settle(self) -> None:
        """Make equal what forward passes moved and no step exchanged: moving averages become the mean of all workers'.

        Raises:
            RuntimeError: Where weights or optimizers differ.
        """
        begin = len(self.replica.exchanged)
        own = [kept[begin:] for kept in self._kept.values()] or [_values(self.replica.settled)]
        _settle(self.workers, self.replica.settled, own, averaged=True)
        for kept in self._kept.values():
            kept[begin:] = _values(self.replica.settled)
        weights = [*self.replica.model.trainable_variables, *self.replica.optimizer.variables]
        differ = _differing(self.workers, [_values(weights)])
        if differ:
            names = [weights[index].path for index in differ[:10]]
            raise RuntimeError(f"Expected equal weights on all workers. Received: different ones at {names}")

    def begin_equal(self) -> None:
        """Give all workers the first one's variables, those of the optimizer too."""
        variables = [*self.replica.model.variables, *self.replica.optimizer.variables]
        _settle(self.workers, variables, [_values(variables)], averaged=False)
        self._kept = {worker: _values(self._moved) for worker in self._kept}

    def _local(self, worker: int, batch: Share) -> dict[str, Array]:
        if worker in self._kept:
            _assign(self._moved, self._kept[worker])
        gradients = self.replica.gradients(*batch)
        if worker in self._kept:
            self._kept[worker] = _values(self._moved)
        if self.codec is not None and worker not in self.states:
            self.states[worker] = self.codec.start(self.replica.shapes, worker, self.workers.count)
        return gradients

    def _statistics(self, worker: int) -> Array:
        kept = self._kept.get(worker)
        count = len(self.replica.exchanged)
        return _flat(_values(self.replica.exchanged) if kept is None else kept[:count])

    def _reduced(self, found: Sequence[dict[str, Array]]) -> Exchanged:
        """By an all-reduce of float32."""
        own = [
            _flat([*gradients.values(), self._statistics(worker)])
            for worker, gradients in zip(self.workers.here, found, strict=True)
        ]
        averaged = self.workers.mean(own)
        shapes = self.replica.shapes
        size = sizes(shapes.values())
        traffic = Traffic(1, averaged.nbytes, float_bytes(shapes), 0.0)
        return _parts(averaged[:size], list(shapes.values())), averaged[size:], traffic

    def _coded(self, codec: GradientCodec, found: Sequence[dict[str, Array]]) -> Exchanged:
        """By messages of a codec, each with the statistics in front."""
        begin = time.thread_time()
        own = [self._message(codec, worker, each) for worker, each in zip(self.workers.here, found, strict=True)]
        written = time.thread_time() - begin
        gathered = self.workers.gather_plain(own)
        begin = time.thread_time()
        shapes, decoded, statistics = self.replica.shapes, [], []
        for worker, payload in enumerate(gathered):
            reader = Reader(payload)
            (count,) = reader.numbers(1)
            if count == _FAILED:
                raise ValueError(f"Worker {worker}: {reader.rest().decode()}")
            statistics.append(reader.array("<f4", count))
            decoded.append(codec.decode(reader.rest(), shapes, f"worker {worker}'s message"))
        gradients = codec.combine(decoded)
        # Of several workers here each one's writing is a part, and one of them would read once.
        seconds = written / len(own) + time.thread_time() - begin
        sent = HEADER_BYTES + round(sum(map(len, gathered)) / len(gathered))
        traffic = Traffic(1, sent, float_bytes(shapes), seconds)
        return [gradients[name] for name in shapes], mean(statistics), traffic

    def _message(self, codec: GradientCodec, worker: int, gradients: dict[str, Array]) -> bytes:
        writer, statistics = Writer(), self._statistics(worker)
        writer.numbers(len(statistics))
        writer.array(statistics, "<f4")
        try:
            return writer.payload() + codec.encode(gradients, self.states[worker])
        except ValueError as error:
            # All are told, as the others would wait for a message.
            writer = Writer()
            writer.numbers(_FAILED)
            return writer.payload() + self.replica.with_paths(str(error)).encode()

    def _assign_statistics(self, averaged: Array) -> None:
        variables = self.replica.exchanged
        for variable, value in zip(variables, _parts(averaged, [tuple(v.shape) for v in variables]), strict=True):
            variable.assign(value * np.float32(self.workers.count if variable.aggregation == "sum" else 1))


def _settle(workers: Workers, variables: Sequence[Any], own: Sequence[Sequence[Any]], *, averaged: bool) -> None:
    """Make variables equal on all workers: the mean of floats, where that is asked for, or the first worker's value."""
    differ = _differing(workers, own)
    if not differ:
        return
    sent = [b"".join(np.asarray(values[index]).tobytes() for index in differ) for values in own]
    gathered, at = workers.gather_plain(sent), 0
    for index in differ:
        like = np.asarray(own[0][index])
        found = [np.frombuffer(each[at : at + like.nbytes], like.dtype).reshape(like.shape) for each in gathered]
        at += like.nbytes
        variables[index].assign(mean(found) if averaged and like.dtype == np.float32 else found[0])


def _differing(workers: Workers, own: Sequence[Sequence[Any]]) -> list[int]:
    """Indices of the values that are not the same on all workers.

    Raises:
        RuntimeError: Where models have different variables.
    """
    digests = [np.array([zlib.crc32(np.asarray(v).tobytes()) for v in values], "<u4").tobytes() for values in own]
    # Where all workers are one, nothing can differ.
    gathered = digests if workers.count == len(own) else workers.gather_plain(digests)
    if len({len(each) for each in gathered}) > 1:
        raise RuntimeError(
            "Expected the same model on all workers. Received: different numbers of variables, "
            f"{[len(each) // 4 for each in gathered]}"
        )
    table = np.stack([np.frombuffer(each, "<u4") for each in gathered])
    return [int(each) for each in np.flatnonzero((table != table[0]).any(axis=0))]


def _values(variables: Sequence[Any]) -> list[Any]:
    """Values of now, which no later assignment changes."""
    return [tf.identity(v.value) for v in variables]


def _assign(variables: Sequence[Any], values: Sequence[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _flat(arrays: Sequence[Any]) -> Array:
    flat = [np.asarray(each, np.float32).reshape(-1) for each in arrays]
    return np.concatenate(flat) if flat else np.zeros(0, np.float32)


def _parts(flat: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(flat, ends), shapes, strict=True)] if shapes else []


def _dense(gradient: Any, variable: Any) -> Any:
    """A gradient as a float32 tensor; an embedding's has zeros where no index of the batch points."""
    if isinstance(gradient, tf.IndexedSlices):
        gradient = tf.math.unsorted_segment_sum(gradient.values, gradient.indices, variable.shape[0])
    return tf.ensure_shape(gradient, variable.shape)
