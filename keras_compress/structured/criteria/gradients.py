"""What a gate on each channel would do to the loss: sums of gradient times weight, for all channels in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.structured.channel_graph import ChannelGraph, WeightAxis
from keras_compress.structured.criteria.criterion import Scores
from keras_compress.structured.examples import Examples


def gate_gradients(graph: ChannelGraph, examples: Examples) -> Iterator[Scores]:
    """For each batch, dL/dz of a gate z = 1 that multiplies a unit wherever it is read.

    Reading is linear, so that this is the sum of `gradient * weight` over the weights that read the unit. Removing it
    sets just those to zero. BatchNormalization and Dropout work as in inference.

    Args:
        graph: Channel graph.
        examples: Batches, and the loss.
    """
    axes = [each for each in graph.weights if each.role == "in"]
    units = np.concatenate([graph.units[each.ids] for each in axes])
    function = _compiled(graph.model, examples.loss, axes)
    for batch in examples:
        products = keras.ops.convert_to_numpy(function(*keras.tree.map_structure(tf.convert_to_tensor, batch)))
        yield np.bincount(units, products, graph.unit_count).astype(np.float64)


def _compiled(model: keras.Model, loss: Any, axes: list[WeightAxis]) -> Any:
    variables = [each.variable.value for each in axes]

    def products(inputs: Any, targets: Any) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            value = tf.reduce_mean(loss(targets, model(inputs, training=False)))
        found = tape.gradient(value, variables, unconnected_gradients="zero")
        return tf.concat([_sums(g * v, each.axis) for g, v, each in zip(found, variables, axes, strict=True)], 0)

    # The last batch is often smaller: one graph for all.
    return tf.function(products, reduce_retracing=True)


def _sums(products: tf.Tensor, axis: int) -> tf.Tensor:
    """Sums over all axes but one."""
    return tf.reduce_sum(products, [other for other in range(len(products.shape)) if other != axis])
