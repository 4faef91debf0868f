"""The diagonal of the Gauss-Newton matrix of a loss in the scored weights: never below 0."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.core.keras_private import logits_of
from keras_compress.core.quiet import quiet_tensorflow
from keras_compress.data.examples import BATCH_SIZE, Batch, Examples
from keras_compress.pruning.criteria.gradients import as_arrays, size_of, tensors, weighted_mean
from keras_compress.pruning.scored import ScoredModel

Tensor = Any
# Numbers in the loss's second derivatives of one batch.
_AT_ONCE = 1 << 24
_LEAST = 1e-7


class GaussNewton:
    """`J^T H J`, J the derivative of the outputs in the weights and H the loss's second derivative in the outputs.

    It is the Hessian of the mean loss without the second derivatives of the network. Outputs that are probabilities
    are taken by their logits: H of a softmax's crossentropy is then `diag(p) - p p^T`, whatever the labels.

    H is found from the loss itself, for each example and each place of an output by itself: the last axis is what a
    loss may combine (classes), over the others it adds up. Directions in which the loss bends down count as flat.

    Args:
        scored: Model and weights.
        examples: Data and loss.
    """

    def __init__(self, scored: ScoredModel, examples: Examples) -> None:
        self._model, self._examples = scored.model, examples
        self._loss = examples.loss
        self._variables = [each.variable for each in scored.weights]
        self._links: list[_Link] = []
        # The last batch is often smaller: one function for all sizes.
        self._factor = tf.function(self._factors, autograph=False, reduce_retracing=True)
        self._square = tf.function(self._squares, autograph=False, reduce_retracing=True)

    def diagonal(self, samples: int, seed: int = 0) -> list[Any]:
        """The diagonal, one float64 array for each weight.

        With `S S^T = H`, it is the mean of `(J^T S r)^2` over vectors r of 1 and -1, one number for each output of each
        example of a batch: rows of a Hadamard matrix times random signs. With as many vectors as such numbers it is
        exact.

        Args:
            samples: Vectors, >= 1, rounded up to a power of two.
            seed: Of the signs.
        """
        count = 1 << (samples - 1).bit_length()
        random = np.random.default_rng(seed)
        with quiet_tensorflow():
            batches = self._examples.batches_of(self._batch_size())
            return as_arrays(weighted_mean((self._mean_square(b, count, random), size_of(b)) for b in batches))

    def _batch_size(self) -> int:
        """How many examples have second derivatives that fit; sets what outputs are."""
        inputs, _ = tensors(next(iter(self._examples.batches_of(BATCH_SIZE))))
        outputs = keras.tree.flatten(self._model(inputs, training=False))
        self._links = [_link(output) for output in outputs]
        each = sum(math.prod(output.shape[1:]) * (output.shape[-1] if output.ndim > 1 else 1) for output in outputs)
        return max(1, min(BATCH_SIZE, _AT_ONCE // int(each)))

    def _mean_square(self, batch: Batch, count: int, random: np.random.Generator) -> list[Tensor]:
        inputs, targets = tensors(batch)
        factors = self._factor(inputs, targets)
        signs = [tf.constant(random.choice([-1.0, 1.0], factor.shape[:-1]), tf.float32) for factor in factors]
        sizes = [int(tf.size(sign)) for sign in signs]
        firsts = np.cumsum(sizes) - sizes
        total: list[Any] = [0.0] * len(self._variables)
        for row in range(count):
            rows = [hadamard_row(row, int(first), size) for first, size in zip(firsts, sizes, strict=True)]
            vectors = [
                tf.linalg.matvec(factor, sign * tf.reshape(each, sign.shape))
                for factor, sign, each in zip(factors, signs, rows, strict=True)
            ]
            total = [t + s for t, s in zip(total, self._square(inputs, vectors), strict=True)]
        return [each / count for each in total]

    def _outputs(self, inputs: Any) -> tuple[Any, list[Tensor]]:
        """The outputs as the model gives them, and logits of each, `[..., classes]`."""
        outputs = self._model(inputs, training=False)
        flat = keras.tree.flatten(outputs)
        return outputs, [link.logits(output) for link, output in zip(self._links, flat, strict=True)]

    def _factors(self, inputs: Any, targets: Any) -> list[Tensor]:
        """S of each output, `[..., classes, classes]`."""
        outputs, logits = self._outputs(inputs)
        shapes = [tf.shape(output) for output in keras.tree.flatten(outputs)]
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as outer:
            outer.watch(logits)
            with tf.GradientTape(watch_accessed_variables=False) as inner:
                inner.watch(logits)
                flat = [
                    link.output(logit, shape) for link, logit, shape in zip(self._links, logits, shapes, strict=True)
                ]
                value = tf.reduce_mean(self._loss(targets, keras.tree.pack_sequence_as(outputs, flat)))  # type: ignore[misc]
            firsts = inner.gradient(value, logits, unconnected_gradients="zero")
            sums = [tf.reduce_sum(tf.reshape(f, [-1, f.shape[-1]]), 0) for f in firsts]
        # Other examples and places do not act on a derivative: the sum's derivative has those of each.
        return [
            _factor(outer.jacobian(total, logit, unconnected_gradients="zero", experimental_use_pfor=False))
            for total, logit in zip(sums, logits, strict=True)
        ]

    def _squares(self, inputs: Any, vectors: list[Tensor]) -> list[Tensor]:
        """`(J^T v)^2`."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            # Those of frozen layers are not watched by themselves.
            sources = [variable.value for variable in self._variables]
            tape.watch(sources)
            _, logits = self._outputs(inputs)
            along = tf.add_n([tf.reduce_sum(z * v) for z, v in zip(logits, vectors, strict=True)])
        found = tape.gradient(along, sources, unconnected_gradients="zero")
        return [tf.square(tf.convert_to_tensor(each)) for each in found]


class _Link:
    """Between an output and what the loss's second derivative is taken in: here the output itself."""

    def logits(self, output: Tensor) -> Tensor:
        # An output of one number for an example has no axis of classes.
        return tf.expand_dims(output, -1) if output.shape.rank == 1 else output

    def output(self, logits: Tensor, shape: Tensor) -> Tensor:
        return tf.reshape(logits, shape)


class _Softmax(_Link):
    def logits(self, output: Tensor) -> Tensor:
        # The logarithms are logits but for a number that is the same for all classes.
        return tf.math.log(tf.maximum(super().logits(output), _LEAST))

    def output(self, logits: Tensor, shape: Tensor) -> Tensor:
        return keras.activations.softmax(logits)


class _Sigmoid(_Link):
    def logits(self, output: Tensor) -> Tensor:
        inside = tf.clip_by_value(super().logits(output), _LEAST, 1.0 - _LEAST)
        return tf.math.log(inside) - tf.math.log1p(-inside)

    def output(self, logits: Tensor, shape: Tensor) -> Tensor:
        return keras.activations.sigmoid(tf.reshape(logits, shape))


def _link(output: Tensor) -> _Link:
    """What an output is, by its values and by what Keras's sigmoid leaves on it."""
    values = np.asarray(output, np.float64)
    logits = logits_of(output)
    if logits is not None and np.allclose(tf.sigmoid(logits), values, atol=1e-6):
        return _Sigmoid()
    if values.ndim > 1 and values.shape[-1] > 1 and (values >= 0).all() and np.allclose(values.sum(-1), 1, atol=1e-3):
        return _Softmax()
    return _Link()


def _factor(columns: Tensor) -> Tensor:
    """S of matrices that are given as `[classes, ..., classes]`; symmetric, negative eigenvalues taken as 0."""
    rank = columns.shape.rank
    matrices = tf.transpose(columns, [*range(1, rank - 1), 0, rank - 1])
    values, vectors = tf.linalg.eigh((matrices + tf.linalg.matrix_transpose(matrices)) / 2)
    return vectors * tf.sqrt(tf.maximum(values, 0.0))[..., tf.newaxis, :]


def hadamard_row(row: int, first: int, size: int) -> Tensor:
    """Entries `first` to `first + size` of a row of Sylvester's Hadamard matrix, `(-1) ** popcount(row & column)`.

    >>> [int(n) for n in hadamard_row(1, 0, 4)], [int(n) for n in hadamard_row(3, 0, 4)]
    ([1, -1, 1, -1], [1, -1, -1, 1])
    """
    shared = tf.bitwise.bitwise_and(tf.range(first, first + size, dtype=tf.int64), tf.constant(row, tf.int64))
    return 1.0 - 2.0 * tf.cast(tf.raw_ops.PopulationCount(x=shared) % 2, tf.float32)
