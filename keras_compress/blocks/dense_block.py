"""Blocks of DenseNet: each layer reads all before it."""

from __future__ import annotations

from keras import layers

from keras_compress.blocks.parts import Tensor, image_channels, named, normalized, whole


def dense_block(x: Tensor, growth: int, *, count: int, bottleneck: int = 4, name: str = "") -> Tensor:
    """`count` layers, each of which puts `growth` channels behind those that there are.

    Each is BatchNormalization, ReLU, a 1x1 convolution to `bottleneck * growth` channels, BatchNormalization, ReLU and
    a 3x3 convolution: with c channels before it `c b k + 9 b k^2` multiplications a position.

    Args:
        x: Images, `(batch, height, width, channels)`.
        growth: k, channels that each layer adds, >= 1.
        count: Layers, >= 1.
        bottleneck: b, >= 0; 0 leaves the 1x1 convolutions out.
        name: What names of the layers begin with.

    Returns:
        Images with `channels + count * growth` channels.

    Raises:
        ValueError: For what are no images, or numbers out of range.

    **Reference**: Huang et al., "Densely connected convolutional networks" (2017), section 3 (DenseNet-B).
    """
    image_channels(x, name)
    whole(growth, "growth", name)
    for number in range(1, whole(count, "count", name) + 1):
        part = f"layer{number}"
        y = normalized(x, "relu", name, part)
        if whole(bottleneck, "bottleneck", name, 0):
            y = layers.Conv2D(bottleneck * growth, 1, use_bias=False, name=named(name, f"{part}_reduce"))(y)
            y = normalized(y, "relu", name, f"{part}_reduced")
        y = layers.Conv2D(growth, 3, padding="same", use_bias=False, name=named(name, f"{part}_conv"))(y)
        x = layers.Concatenate(name=named(name, f"{part}_join"))([x, y])
    return x


def transition(x: Tensor, filters: int, *, name: str = "") -> Tensor:
    """BatchNormalization, ReLU, a 1x1 convolution and a 2x2 average: between two dense blocks.

    Args:
        x: Images, `(batch, height, width, channels)`, height and width >= 2.
        filters: Channels that come out, >= 1. DenseNet-C: half of those that come in.
        name: What names of the layers begin with.

    Returns:
        Images, `(batch, height // 2, width // 2, filters)`.

    Raises:
        ValueError: For what are no images, or filters below 1.

    **Reference**: Huang et al., "Densely connected convolutional networks" (2017), section 3.
    """
    image_channels(x, name)
    x = normalized(x, "relu", name, "transition")
    conv = layers.Conv2D(whole(filters, "filters", name), 1, use_bias=False, name=named(name, "transition_conv"))
    return layers.AveragePooling2D(2, name=named(name, "transition_pool"))(conv(x))
