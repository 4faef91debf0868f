"""Gradients of a loss in the scored weights, and products of its Hessian with a vector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.core.quiet import quiet_tensorflow
from keras_compress.data.examples import Batch, Examples
from keras_compress.data.fit_loss import Loss
from keras_compress.pruning.scored import ScoredModel

Tensor = Any


class LossGradients:
    """Derivatives of the mean loss of a batch in the scored weights, in inference.

    Args:
        scored: Model and weights.
        loss: `(y_true, y_pred) -> loss`.
    """

    def __init__(self, scored: ScoredModel, loss: Loss | None) -> None:
        self._model, self._loss = scored.model, loss
        self._variables = [each.variable for each in scored.weights]
        # The last batch is often smaller: one function for all sizes.
        self._first = tf.function(self._gradients, autograph=False, reduce_retracing=True)
        self._second = tf.function(self._products, autograph=False, reduce_retracing=True)
        self._value = tf.function(self._loss_of, autograph=False, reduce_retracing=True)

    def loss(self, batch: Batch) -> float:
        """The mean loss."""
        with quiet_tensorflow():
            return float(self._value(*tensors(batch)))

    def of(self, batch: Batch) -> list[Tensor]:
        """Gradients, one for each weight."""
        with quiet_tensorflow():
            found: list[Tensor] = self._first(*tensors(batch))
        return found

    def times(self, batch: Batch, vectors: Sequence[Tensor]) -> list[Tensor]:
        """The Hessian times a vector, which has a part for each weight."""
        with quiet_tensorflow():
            found: list[Tensor] = self._second(*tensors(batch), [tf.cast(v, tf.float32) for v in vectors])
        return found

    def mean(self, examples: Examples) -> list[Tensor]:
        """Gradients over all examples."""
        return weighted_mean((self.of(batch), size_of(batch)) for batch in examples)

    def _loss_of(self, inputs: Any, targets: Any) -> Tensor:
        outputs = self._model(inputs, training=False)
        return tf.reduce_mean(self._loss(targets, outputs))  # type: ignore[misc]

    def _sources(self, *tapes: tf.GradientTape) -> list[Tensor]:
        values = [variable.value for variable in self._variables]
        for tape in tapes:
            # Those of frozen layers are not watched by themselves.
            tape.watch(values)
        return values

    def _gradients(self, inputs: Any, targets: Any) -> list[Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            sources = self._sources(tape)
            value = self._loss_of(inputs, targets)
        return _dense(tape.gradient(value, sources, unconnected_gradients="zero"))

    def _products(self, inputs: Any, targets: Any, vectors: list[Tensor]) -> list[Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as outer:
            with tf.GradientTape(watch_accessed_variables=False) as inner:
                sources = self._sources(outer, inner)
                value = self._loss_of(inputs, targets)
            gradients = _dense(inner.gradient(value, sources, unconnected_gradients="zero"))
            along = tf.add_n([tf.reduce_sum(g * v) for g, v in zip(gradients, vectors, strict=True)])
        return _dense(outer.gradient(along, sources, unconnected_gradients="zero"))


def _dense(gradients: Sequence[Any]) -> list[Tensor]:
    """Of a table that is looked up in, TensorFlow gives the rows that were read."""
    return [tf.convert_to_tensor(gradient) for gradient in gradients]


def tensors(batch: Batch) -> tuple[Any, Any]:
    """A batch as tensors; targets may be `None`."""
    inputs, targets = (None if each is None else keras.tree.map_structure(tf.convert_to_tensor, each) for each in batch)
    return inputs, targets


def size_of(batch: Batch) -> int:
    """Number of examples of a batch."""
    return int(keras.tree.flatten(batch[0])[0].shape[0])


def weighted_mean(found: Iterator[tuple[list[Any], int]]) -> list[Any]:
    """The mean of lists of tensors, each with its weight."""
    total: list[Any] = []
    count = 0
    for parts, size in found:
        total = [tf.add(a, size * b) for a, b in zip(total, parts, strict=True)] if total else [size * p for p in parts]
        count += size
    return [each / count for each in total]


def first_batches(examples: Examples, size: int, most: int) -> Iterator[Batch]:
    """The first `most` batches of `size` examples."""
    return islice(examples.batches_of(size), most)


def as_arrays(parts: Sequence[Tensor]) -> list[Any]:
    """float64 arrays."""
    return [np.asarray(part, np.float64) for part in parts]
