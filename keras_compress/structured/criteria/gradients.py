"""What the loss would do if channels became weaker: gradients in the weights that read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_compress.data.examples import Batch
from keras_compress.data.fit_loss import Loss
from keras_compress.structured.channel_graph import ChannelGraph, WeightAxis
from keras_compress.structured.criteria.criterion import Scores
from keras_compress.structured.unit_places import is_reader


class Readers:
    """The weights that read each unit: setting them to zero is to remove it.

    Every unit has a gate, a factor on its weights. BatchNormalization and Dropout work as in inference.

    Args:
        graph: Channel graph.
        loss: Loss of a batch.
        of_product: What is summed over a unit's weights, a function of `gradient * weight`.
    """

    def __init__(self, graph: ChannelGraph, loss: Loss | None, of_product: Callable[[Any], Any] = tf.identity) -> None:
        self._axes = _reading(graph)
        self._units = [graph.units[each.ids] for each in self._axes]
        self._count = graph.unit_count
        self._model, self._loss, self._of_product = graph.model, loss, of_product
        # The last batch is often smaller: one function for all sizes.
        self._function = tf.function(self._sums, reduce_retracing=True)
        self._loss_function = tf.function(self._loss_of, reduce_retracing=True)

    def sums(self, batch: Batch, gates: NDArray[np.float64] | None = None) -> Scores:
        """The sum over each unit's weights, gated, of a function of `gradient * weight`."""
        gates = np.ones(self._count) if gates is None else gates
        found = self._function(*_tensors(batch), tf.constant(gates, tf.float32))
        units = np.concatenate([np.zeros(0, np.int64), *self._units])
        return np.bincount(units, keras.ops.convert_to_numpy(found), self._count).astype(np.float64)

    def loss(self, batch: Batch, gates: NDArray[np.float64]) -> float:
        """Loss of the gated model. Units with a gate of 0 might as well be cut."""
        return float(self._loss_function(*_tensors(batch), tf.constant(gates, tf.float32)))

    def _loss_of(self, inputs: Any, targets: Any, gates: tf.Tensor) -> tf.Tensor:
        return self._gated_loss(inputs, targets, self._gated(gates))

    def _gated_loss(self, inputs: Any, targets: Any, gated: dict[int, tuple[keras.Variable, tf.Tensor]]) -> tf.Tensor:
        with keras.StatelessScope(state_mapping=list(gated.values())):
            outputs = self._model(inputs, training=False)
        return tf.reduce_mean(self._loss(targets, outputs))  # type: ignore[misc]

    def _sums(self, inputs: Any, targets: Any, gates: tf.Tensor) -> tf.Tensor:
        gated = self._gated(gates)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([tensor for _, tensor in gated.values()])
            value = self._gated_loss(inputs, targets, gated)
        keys = list(gated)
        gradients = tape.gradient(value, [gated[key][1] for key in keys], unconnected_gradients="zero")
        products = {key: self._of_product(g * gated[key][1]) for key, g in zip(keys, gradients, strict=True)}
        sums = [_over_others(products[id(each.variable)], each.axis) for each in self._axes]
        return tf.concat([tf.zeros(0), *sums], 0)

    def _gated(self, gates: tf.Tensor) -> dict[int, tuple[keras.Variable, tf.Tensor]]:
        """`id(variable) -> (variable, its value times the gates of what it reads)`."""
        found: dict[int, tuple[keras.Variable, tf.Tensor]] = {}
        for each, units in zip(self._axes, self._units, strict=True):
            before = found.get(id(each.variable), (None, tf.convert_to_tensor(each.variable.value)))[1]
            factor = tf.reshape(tf.cast(tf.gather(gates, units), before.dtype), _along(each))
            found[id(each.variable)] = (each.variable, before * factor)
        return found


def _reading(graph: ChannelGraph) -> list[WeightAxis]:
    """The weights that read units; those that make them where none does (queries that meet keys)."""
    reading = [axis for axis in graph.weights if is_reader(axis)]
    read = np.zeros(graph.unit_count, bool)
    for axis in reading:
        read[graph.units[axis.ids]] = True
    making = [axis for axis in graph.weights if axis.role in ("out", "through")]
    return reading + [axis for axis in making if not read[graph.units[axis.ids]].any()]


def _tensors(batch: Batch) -> tuple[Any, Any]:
    inputs, targets = keras.tree.map_structure(tf.convert_to_tensor, batch)
    return inputs, targets


def _along(axis: WeightAxis) -> list[int]:
    """Shape in which a vector along an axis of a weight broadcasts against it."""
    return [-1 if number == axis.axis else 1 for number in range(len(axis.variable.shape))]


def _over_others(products: tf.Tensor, axis: int) -> tf.Tensor:
    """Sums over all axes but one."""
    others = [other for other in range(len(products.shape)) if other != axis]
    return tf.cast(tf.reduce_sum(products, others), tf.float32)
