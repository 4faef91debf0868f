"""Convolutions and fully connected layers: int8 weights from the plan, biases on `s_in * s_w`."""

from __future__ import annotations

from typing import Any, ClassVar

from keras_compress.tflite.flatbuffer import Graph
from keras_compress.tflite.lowering.constants import store_bias, store_weight
from keras_compress.tflite.lowering.rule import Lowering, Rule


class Weighted(Rule):
    """An operator with a constant weight, per-channel scales along one axis of it, and maybe a bias."""

    data: ClassVar[int] = 0
    weight: ClassVar[int] = 1
    bias: ClassVar[int] = 2
    channel_axis: ClassVar[int] = 0

    def refusal(self, graph: Graph, op: Any, bits: int) -> str | None:
        if not graph.is_constant(op.inputs[self.weight]):
            return f"the weights of {graph.kind(op)} are computed, not constant"
        return super().refusal(graph, op, bits)

    def lower(self, state: Lowering, op: Any) -> None:
        channels = state.graph.shape(op.inputs[self.weight])[self.channel_axis]
        scale = store_weight(state, op, self.weight, self.channel_axis)
        store_bias(state, op, self.bias, state.grids[op.inputs[self.data]], scale, channels)


class Convolution(Weighted):
    """CONV_2D, weights OHWI."""

    handles = ("CONV_2D",)


class Depthwise(Weighted):
    """DEPTHWISE_CONV_2D, weights 1HWC."""

    handles = ("DEPTHWISE_CONV_2D",)
    channel_axis = 3


class FullyConnected(Weighted):
    """FULLY_CONNECTED, weights OI."""

    handles = ("FULLY_CONNECTED",)


class TransposedConvolution(Weighted):
    """TRANSPOSE_CONV: output shape, weights OHWI, data, bias."""

    handles = ("TRANSPOSE_CONV",)
    data, weight, bias = 2, 1, 3
