"""`ChannelGate`: a factor for each channel, where something without weights sums over channels."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_compress.core.registry import PACKAGE, register
from keras_compress.structured.channel_ids import Axes
from keras_compress.structured.rules.rule import Rule, Visit

Tensor = Any


@keras.saving.register_keras_serializable(package=PACKAGE)
class ChannelGate(keras.layers.Layer):
    """A factor for each channel, 1 or 0.

    A channel whose makers are 0 may have a value nevertheless, that of an activation at 0 for one. A layer that reads
    it has weights to mask; a norm, a sum or a product of two tensors has none. `cut_masked` takes gates out again.

    Args:
        axis: Axis of the channels.

    Input and output shape: any, the same.
    """

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**{"trainable": False, **kwargs})
        self.axis = int(axis)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        self.gate = self.add_weight(name="gate", shape=(input_shape[self.axis],), initializer="ones", trainable=False)

    def call(self, inputs: Tensor) -> Tensor:
        shape = [1] * len(inputs.shape)
        shape[self.axis] = -1
        return inputs * ops.reshape(ops.cast(self.gate, inputs.dtype), shape)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}


@register("channel_rule")
class ChannelGateRule(Rule):
    """It acts on each channel alone."""

    handles = (ChannelGate,)

    def outputs(self, visit: Visit) -> list[Axes]:
        layer = visit.operation
        visit.weight(layer.gate, 0, visit.inputs[0].get(layer.axis % len(visit.shape)), "through")
        return [dict(visit.inputs[0])]
