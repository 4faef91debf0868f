"""Ranges from the lowest and highest value that each activation point sees."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_compress.calibration.batches import batches
from keras_compress.core.quiet import quiet_tensorflow
from keras_compress.quantizers.activation import QuantizeActivation


def untrained_points(model: keras.Model) -> list[QuantizeActivation]:
    """Points of a flat model whose range is not known."""
    return [layer for layer in model.layers if isinstance(layer, QuantizeActivation) and not layer.quantizer.trained()]


def calibrate(model: keras.Model, representative_dataset: Any) -> int:
    """Set the ranges that are not known to the extremes over some data. Known ranges stay, and quantize meanwhile.

    Args:
        model: Functional model without nested models; its quantizers are set in place.
        representative_dataset: See `keras_compress.calibration.batches.batches`.

    Returns:
        How many samples were seen.
    """
    points = untrained_points(model)
    watched = keras.Model(model.inputs, [point.input for point in points])

    @tf.function
    def extremes(inputs: list[tf.Tensor]) -> list[tuple[tf.Tensor, tf.Tensor]]:
        outputs = tf.nest.flatten(watched(inputs, training=False))
        return [(tf.reduce_min(x), tf.reduce_max(x)) for x in outputs]

    lows, highs, seen = np.full(len(points), np.inf), np.full(len(points), -np.inf), 0
    with quiet_tensorflow(), warnings.catch_warnings():
        # That untrained points let values pass is what calibration needs.
        warnings.simplefilter("ignore")
        for batch in batches(representative_dataset, model):
            found = extremes([tf.constant(array) for array in batch])
            lows = np.minimum(lows, [float(low) for low, _ in found])
            highs = np.maximum(highs, [float(high) for _, high in found])
            seen += len(batch[0])
    for point, low, high in zip(points, lows, highs, strict=True):
        point.quantizer.set_range(float(low), float(high))
    return seen
