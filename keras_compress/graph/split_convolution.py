"""Settings and layers of a convolution that is computed by several, its channels mixed apart from its places."""

from __future__ import annotations

from typing import Any

import keras

# Of a convolution that reads one place at a time.
POINTWISE = {"kernel_size": 1, "strides": 1, "dilation_rate": 1, "padding": "valid"}


def depthwise_of(layer: Any, depth_multiplier: int = 1) -> keras.layers.DepthwiseConv2D:
    """A depthwise convolution over the places that a Conv2D reads, without a bias; `<name>_depthwise`.

    Args:
        layer: The Conv2D, its strides alike along both axes: a DepthwiseConv2D has no others.
        depth_multiplier: Outputs of each channel.
    """
    return keras.layers.DepthwiseConv2D(
        layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        depth_multiplier=depth_multiplier,
        dilation_rate=layer.dilation_rate,
        use_bias=False,
        dtype=layer.dtype_policy,
        trainable=layer.trainable,
        name=f"{layer.name}_depthwise",
    )
