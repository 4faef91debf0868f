"""Ghost modules and the bottleneck that is made of them."""

from __future__ import annotations

from keras import layers

from keras_compress.blocks.parts import (
    Tensor,
    added,
    conv_norm,
    depthwise_norm,
    divided,
    image_channels,
    keeps_shape,
    named,
    whole,
)
from keras_compress.blocks.squeeze_excitation import squeeze_excitation


def ghost_module(
    x: Tensor,
    filters: int,
    *,
    kernel_size: int = 1,
    strides: int = 1,
    ratio: int = 2,
    cheap_size: int = 3,
    activation: str | None = "relu",
    name: str = "",
) -> Tensor:
    """A convolution makes `filters / ratio` channels; cheap depthwise ones make the others of these.

    With c channels in, n out, a kernel of k x k, s the ratio and cheap kernels of d x d, for each position
    `n/s c k^2 + (s - 1) n/s d^2` multiplications in place of `n c k^2`: about s times fewer, where d is about k and s
    much smaller than c (equation 4).

    Args:
        x: Images, `(batch, height, width, channels)`.
        filters: Channels that come out, a multiple of `ratio`.
        kernel_size: Of the convolution.
        strides: Likewise.
        ratio: s, >= 2: how many channels come of each that is made.
        cheap_size: d, of the depthwise convolutions.
        activation: Behind both, `None` for none.
        name: What names of the layers begin with.

    Returns:
        Images, `(batch, height / strides, width / strides, filters)`.

    Raises:
        ValueError: For what are no images, or a ratio that does not divide the filters.

    **Reference**: Han et al., "GhostNet: More features from cheap operations" (2020), section 3.1, equations 2 to 5.
    """
    image_channels(x, name)
    made = divided(whole(filters, "filters", name), whole(ratio, "ratio", name, 2), "`filters`", name)
    primary = conv_norm(x, made, kernel_size, activation, name, "primary", strides=strides)
    cheap = depthwise_norm(primary, cheap_size, activation, name, "cheap", depth_multiplier=ratio - 1)
    return layers.Concatenate(name=named(name, "join"))([primary, cheap])


def ghost_bottleneck(
    x: Tensor,
    filters: int,
    *,
    expanded: int,
    kernel_size: int = 3,
    strides: int = 1,
    squeeze: int = 0,
    ratio: int = 2,
    name: str = "",
) -> Tensor:
    """A ghost module to more channels, one back, linear; with strides a depthwise convolution between them.

    Args:
        x: Images, `(batch, height, width, channels)`.
        filters: Channels that come out, a multiple of `ratio`.
        expanded: Channels between the modules, a multiple of `ratio`.
        kernel_size: Of the depthwise convolution that strides.
        strides: 1 or 2.
        squeeze: Units of a squeeze-and-excitation between the modules, 0 for none.
        ratio: Of both modules.
        name: What names of the layers begin with.

    Returns:
        Images, `(batch, height / strides, width / strides, filters)`. The input is added, through a depthwise and a 1x1
        convolution where its shape is another.

    Raises:
        ValueError: For what are no images, or a ratio that does not divide.

    **Reference**: Han et al., "GhostNet: More features from cheap operations" (2020), figure 3.
    """
    whole(expanded, "expanded", name)
    y = ghost_module(x, expanded, ratio=ratio, name=f"{name}_ghost1" if name else "")
    if strides > 1:
        y = depthwise_norm(y, kernel_size, None, name, "depthwise", strides=strides)
    if squeeze:
        y = squeeze_excitation(y, squeeze, gate="hard_sigmoid", name=f"{name}_se" if name else "")
    y = ghost_module(y, filters, ratio=ratio, activation=None, name=f"{name}_ghost2" if name else "")
    if keeps_shape(x, filters, strides):
        return added(y, x, name)
    shortcut = depthwise_norm(x, kernel_size, None, name, "shortcut_depthwise", strides=strides)
    return added(y, conv_norm(shortcut, filters, 1, None, name, "shortcut"), name)
