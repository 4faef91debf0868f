"""Residual blocks: ResNet's basic one and its bottleneck, ResNeXt's with groups."""

from __future__ import annotations

from keras_compress.blocks.parts import (
    Tensor,
    activated,
    added,
    conv_norm,
    divided,
    image_channels,
    keeps_shape,
    whole,
)


def basic_residual(x: Tensor, filters: int, *, strides: int = 1, name: str = "") -> Tensor:
    """Two 3x3 convolutions and the input: `9 c^2` multiplications a position each.

    Args:
        x: Images, `(batch, height, width, channels)`.
        filters: Channels that come out, >= 1.
        strides: Of the first convolution.
        name: What names of the layers begin with.

    Returns:
        Images, `(batch, height / strides, width / strides, filters)`.

    Raises:
        ValueError: For what are no images, or filters below 1.

    **Reference**: He et al., "Deep residual learning for image recognition" (2016), figure 5, left.
    **Deviations**: an input of another shape goes through a 1x1 convolution (their option B).
    """
    image_channels(x, name)
    whole(filters, "filters", name)
    y = conv_norm(x, filters, 3, "relu", name, "conv1", strides=strides)
    y = conv_norm(y, filters, 3, None, name, "conv2")
    return activated(added(y, _shortcut(x, filters, strides, name), name), "relu", name, "out_relu")


def bottleneck(x: Tensor, filters: int, *, inside: int, groups: int = 1, strides: int = 1, name: str = "") -> Tensor:
    """A 1x1 convolution to fewer channels, a 3x3 one, in groups or not, a 1x1 one back, and the input.

    With c channels, d inside and g groups `2 c d + 9 d^2 / g` multiplications a position.

    Args:
        x: Images, `(batch, height, width, channels)`.
        filters: Channels that come out, >= 1. ResNet: four times those inside; ResNeXt: twice.
        inside: Channels of the 3x3 convolution, a multiple of `groups`.
        groups: ResNeXt's cardinality; 1 is ResNet's bottleneck.
        strides: Of the 3x3 convolution.
        name: What names of the layers begin with.

    Returns:
        Images, `(batch, height / strides, width / strides, filters)`.

    Raises:
        ValueError: For what are no images, numbers below 1, or groups that do not divide.

    **Reference**: He et al., "Deep residual learning for image recognition" (2016), figure 5, right; Xie et al.,
    "Aggregated residual transformations for deep neural networks" (2017), figure 3 (c).
    **Deviations**: strides are those of the 3x3 convolution, as in later ResNets.
    """
    image_channels(x, name)
    whole(filters, "filters", name)
    divided(whole(inside, "inside", name), whole(groups, "groups", name), "`inside`", name)
    y = conv_norm(x, inside, 1, "relu", name, "reduce")
    y = conv_norm(y, inside, 3, "relu", name, "conv", strides=strides, groups=groups)
    y = conv_norm(y, filters, 1, None, name, "restore")
    return activated(added(y, _shortcut(x, filters, strides, name), name), "relu", name, "out_relu")


def _shortcut(x: Tensor, filters: int, strides: int, name: str) -> Tensor:
    """The input, in the shape of what it is added to."""
    if keeps_shape(x, filters, strides):
        return x
    return conv_norm(x, filters, 1, None, name, "shortcut", strides=strides)
