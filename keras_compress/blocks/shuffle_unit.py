"""The unit of ShuffleNet v1."""

from __future__ import annotations

from keras import layers

from keras_compress.blocks.channel_shuffle import channel_shuffle
from keras_compress.blocks.parts import (
    Tensor,
    activated,
    added,
    conv_norm,
    depthwise_norm,
    divided,
    image_channels,
    named,
    whole,
)


def shuffle_unit(
    x: Tensor, filters: int, *, groups: int = 4, strides: int = 1, grouped_input: bool = True, name: str = ""
) -> Tensor:
    """A 1x1 convolution in groups to a quarter of the filters, channel shuffle, a depthwise one, a 1x1 one in groups.

    The input is added; with strides of 2 its 3x3 average is put beside the rest, which then makes the missing channels.
    With c channels in and out, m inside and g groups, for each position `2 c m / g + 9 m` multiplications.

    Args:
        x: Images, `(batch, height, width, channels)`.
        filters: Channels that come out. With strides of 1 as many as come in, with 2 more.
        groups: A divisor of the channels that come in, of a quarter of the filters and of the filters that are made.
        strides: 1 or 2.
        grouped_input: Whether the first convolution has groups: not where few channels come in.
        name: What names of the layers begin with.

    Returns:
        Images, `(batch, height / strides, width / strides, filters)`.

    Raises:
        ValueError: For groups that do not divide, strides out of range, or filters that do not fit the channels.

    **Reference**: Zhang et al., "ShuffleNet: An extremely efficient convolutional neural network for mobile devices"
    (2018), figure 2 and section 3.2.
    """
    channels = image_channels(x, name)
    made = _made(filters, channels, strides, name)
    inside = divided(whole(filters, "filters", name), 4, "`filters`", name)
    first = whole(groups, "groups", name) if grouped_input else 1
    divided(channels, first, "channels", name)
    divided(inside, groups, "`filters` / 4", name)
    divided(made, groups, "`filters` that are made", name)
    y = conv_norm(x, inside, 1, "relu", name, "reduce", groups=first)
    y = channel_shuffle(y, groups, name=f"{name}_shuffle" if name else "")
    y = depthwise_norm(y, 3, None, name, "depthwise", strides=strides)
    y = conv_norm(y, made, 1, None, name, "restore", groups=groups)
    if strides == 1:
        return activated(added(y, x, name), "relu", name, "out_relu")
    shortcut = layers.AveragePooling2D(3, 2, "same", name=named(name, "average"))(x)
    joined = layers.Concatenate(name=named(name, "join"))([shortcut, y])
    return activated(joined, "relu", name, "out_relu")


def _made(filters: int, channels: int, strides: int, name: str) -> int:
    """Filters of the last convolution."""
    where = f" at {name!r}" if name else ""
    if strides not in (1, 2):
        raise ValueError(f"Expected `strides` of 1 or 2{where}. Received: strides={strides!r}")
    if strides == 1 and filters != channels:
        raise ValueError(f"Expected as many `filters` as channels, {channels}{where}. Received: filters={filters}")
    if strides == 2 and filters <= channels:
        raise ValueError(f"Expected more `filters` than channels, {channels}{where}. Received: filters={filters}")
    return filters if strides == 1 else filters - channels
