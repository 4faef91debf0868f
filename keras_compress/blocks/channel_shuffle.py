"""Channel shuffle: channels of each group spread over all groups."""

from __future__ import annotations

from keras import layers

from keras_compress.blocks.parts import Tensor, divided, image_channels, named, whole


def channel_shuffle(x: Tensor, groups: int, *, name: str = "") -> Tensor:
    """Channels `(groups, n)` as `(n, groups)`: what comes out at `i * groups + g` was channel `g * n + i`.

    Three layers that move values: a Reshape, a Permute and a Reshape. They keep the integers of an int8 file as they
    are. Of the ways to write it without weights this was by far the quickest on LiteRT, and near the quickest on
    TFLite-Micro; see `docs/compact_blocks.md`.

    Args:
        x: Images, `(batch, height, width, channels)`, of a known size.
        groups: A divisor of the channels.
        name: What names of the layers begin with.

    Returns:
        Images of the same shape.

    Raises:
        ValueError: For what are no images, a size that is not known, or groups that do not divide the channels.

    **Reference**: Zhang et al., "ShuffleNet: An extremely efficient convolutional neural network for mobile devices"
    (2018), section 3.1.
    """
    channels = image_channels(x, name)
    each = divided(channels, whole(groups, "groups", name), "channels", name)
    height, width = x.shape[1:3]
    if height is None or width is None:
        raise ValueError(f"Expected images of a known size{f' at {name!r}' if name else ''}. Received: {x.shape}")
    if groups in (1, channels):
        return x
    x = layers.Reshape((height * width, groups, each), name=named(name, "groups"))(x)
    x = layers.Permute((1, 3, 2), name=named(name, "permute"))(x)
    return layers.Reshape((height, width, channels), name=named(name, "shuffled"))(x)
