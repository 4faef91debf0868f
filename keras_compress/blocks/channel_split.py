"""The unit of ShuffleNet v2."""

from __future__ import annotations

from keras import layers, ops

from keras_compress.blocks.channel_shuffle import channel_shuffle
from keras_compress.blocks.parts import Tensor, conv_norm, depthwise_norm, divided, image_channels, named, whole


def channel_split_unit(x: Tensor, filters: int, *, strides: int = 1, name: str = "") -> Tensor:
    """Half of the channels pass; the others through a 1x1, a depthwise and a 1x1 convolution; then both are shuffled.

    With strides of 2 all channels go both ways, and the way that passes is a depthwise and a 1x1 convolution. With c
    channels in and out and strides of 1, for each position `c^2 / 2 + 9 c / 2` multiplications.

    Args:
        x: Images, `(batch, height, width, channels)`.
        filters: Channels that come out, an even number. With strides of 1 as many as come in.
        strides: 1 or 2.
        name: What names of the layers begin with.

    Returns:
        Images, `(batch, height / strides, width / strides, filters)`.

    Raises:
        ValueError: For odd filters or channels, strides out of range, or filters that do not fit the channels.

    **Reference**: Ma et al., "ShuffleNet V2: Practical guidelines for efficient CNN architecture design" (2018), figure
    3 (c) and (d). **Deviations**: parts are shuffled at the unit's end, as in the figure; the channels that pass are
    the first half.
    """
    channels = image_channels(x, name)
    half = divided(whole(filters, "filters", name), 2, "`filters`", name)
    where = f" at {name!r}" if name else ""
    if strides not in (1, 2):
        raise ValueError(f"Expected `strides` of 1 or 2{where}. Received: strides={strides!r}")
    if strides == 1:
        if filters != channels:
            raise ValueError(f"Expected as many `filters` as channels, {channels}{where}. Received: filters={filters}")
        passing, rest = ops.split(x, 2, axis=-1)
    else:
        passing = depthwise_norm(x, 3, None, name, "passing_depthwise", strides=2)
        passing, rest = conv_norm(passing, half, 1, "relu", name, "passing_pointwise"), x
    rest = conv_norm(rest, half, 1, "relu", name, "first")
    rest = depthwise_norm(rest, 3, None, name, "depthwise", strides=strides)
    rest = conv_norm(rest, half, 1, "relu", name, "last")
    joined = layers.Concatenate(name=named(name, "join"))([passing, rest])
    return channel_shuffle(joined, 2, name=f"{name}_shuffle" if name else "")
