"""DEPTHWISE_CONV_2D: each output belongs to one input channel."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_compress.tflite.dead_units.cut import Cut
from keras_compress.tflite.dead_units.rounding import Known
from keras_compress.tflite.dead_units.rule import Rule
from keras_compress.tflite.dead_units.units import Units, width
from keras_compress.tflite.dead_units.weighted import Layer


class Depthwise(Rule):
    """The outputs of one input channel stand side by side, and go with it."""

    handles = ("DEPTHWISE_CONV_2D",)

    def fits(self, units: Units, op: Any) -> bool:
        layer = Layer(units.graph, op)
        outputs, channels = width(units.graph, layer.output), width(units.graph, layer.data)
        return layer.understood and not units.read_elsewhere(layer.weight) and outputs % channels == 0

    def tie(self, units: Units, op: Any) -> None:
        layer = Layer(units.graph, op)
        outputs, channels = units.of(layer.output), units.of(layer.data)
        units.tie(np.repeat(channels, outputs.size // channels.size), outputs)
        units.share(layer.weight, outputs, outputs)
        units.open(layer.output)

    def known(self, units: Units, op: Any) -> Known:
        layer = Layer(units.graph, op)
        weights = layer.weights.reshape(-1, width(units.graph, layer.output))
        channels = units.known(layer.data)
        if layer.padded:
            channels = channels.where(channels.values == layer.grid.zero_point)
        values, sure = (np.repeat(part, weights.shape[1] // part.size) for part in channels)
        offsets = np.where(sure, values - layer.grid.zero_point, 0)
        sums = layer.bias_values + weights.sum(0, dtype=np.int64) * offsets
        return layer.outputs_of(sums).where(sure | (weights == 0).all(0))

    def cut(self, cut: Cut, op: Any) -> None:
        layer = Layer(cut.graph, op)
        outputs = width(cut.graph, layer.output)
        layer.cut(cut, np.ones(outputs, bool), np.zeros(outputs, np.int64))
