"""Separable convolutions as the two convolutions that they are."""

from __future__ import annotations

from typing import Any

import keras

from keras_compress.graph import graph as keras_graph
from keras_compress.graph.configuration import configuration
from keras_compress.graph.model import LayerCopies, copied

_HALVES = {
    keras.layers.SeparableConv1D: (keras.layers.DepthwiseConv1D, keras.layers.Conv1D),
    keras.layers.SeparableConv2D: (keras.layers.DepthwiseConv2D, keras.layers.Conv2D),
}
_OF_BOTH = ("name", "trainable", "dtype", "data_format")
_OF_DEPTHWISE = (*_OF_BOTH, "kernel_size", "strides", "padding", "dilation_rate", "depth_multiplier")
_OF_POINTWISE = (*_OF_BOTH, "filters", "activation", "use_bias", "activity_regularizer")


def has_halves(layer: Any) -> bool:
    """Whether it is a separable convolution."""
    return type(layer) in _HALVES


def with_halves(model: keras.Model) -> keras.Model:
    """The same function with a depthwise and a 1x1 convolution, which has its name, for each separable one."""
    pairs: dict[int, tuple[Any, Any]] = {}
    if not any(has_halves(layer) for _, layer in keras_graph.walk(model)):
        return model

    def visit(call: keras_graph.Call) -> Any:
        layer = call.operation
        if not has_halves(layer):
            return copies(call)
        new = id(layer) not in pairs
        if new:
            pairs[id(layer)] = _halves(layer)
        depthwise, pointwise = pairs[id(layer)]
        made = pointwise(depthwise(call.args[0]))
        if new:
            depthwise.kernel.assign(layer.depthwise_kernel)
            pointwise.kernel.assign(layer.pointwise_kernel)
            if layer.use_bias:
                pointwise.bias.assign(layer.bias)
        return made

    copies = LayerCopies(visit=visit, inside=False)
    made: keras.Model = copied(model, copies)
    return made


def _halves(layer: Any) -> tuple[Any, Any]:
    first, second = _HALVES[type(layer)]
    with configuration(layer) as config:
        own = {key: value for key, value in config.items() if key in _OF_DEPTHWISE}
        depthwise = first(**{**own, "name": f"{layer.name}_depthwise", "use_bias": True})
        pointwise = second(kernel_size=1, **{key: value for key, value in config.items() if key in _OF_POINTWISE})
    return depthwise, pointwise
