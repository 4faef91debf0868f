"""MBConv and fused MBConv, of which EfficientNets are made."""

from __future__ import annotations

from keras_compress.blocks.inverted_residual import inverted_residual
from keras_compress.blocks.parts import Tensor, added, conv_norm, image_channels, keeps_shape, whole
from keras_compress.blocks.squeeze_excitation import squeeze_excitation


def mb_conv(
    x: Tensor,
    filters: int,
    *,
    expansion: float = 6.0,
    kernel_size: int = 3,
    strides: int = 1,
    squeeze_ratio: float = 0.25,
    activation: str = "silu",
    name: str = "",
) -> Tensor:
    """An inverted residual with squeeze-and-excitation to a share of the channels that come in, and swish.

    Args:
        x: Images, `(batch, height, width, channels)`.
        filters: Channels that come out, >= 1.
        expansion: >= 1; EfficientNet: 1 in its first stage, then 6.
        kernel_size: Of the depthwise convolution: 3 or 5.
        strides: Likewise.
        squeeze_ratio: Units of squeeze-and-excitation as a share of the channels that come in, in [0, 1]; 0 for none.
        activation: `"silu"` is swish; `"relu6"` or `"hard_silu"` are quicker in integers.
        name: What names of the layers begin with.

    Returns:
        Images, `(batch, height / strides, width / strides, filters)`.

    Raises:
        ValueError: For what are no images, or numbers out of range.

    **Reference**: Tan and Le, "EfficientNet: Rethinking model scaling for convolutional neural networks" (2019),
    section 4. **Deviations**: no stochastic depth.
    """
    units = _units(x, squeeze_ratio, name)
    settings = {"expansion": expansion, "kernel_size": kernel_size, "strides": strides, "activation": activation}
    return inverted_residual(x, filters, squeeze=units, gate="sigmoid", name=name, **settings)  # type: ignore[arg-type]


def fused_mb_conv(
    x: Tensor,
    filters: int,
    *,
    expansion: float = 4.0,
    kernel_size: int = 3,
    strides: int = 1,
    squeeze_ratio: float = 0.0,
    activation: str = "silu",
    name: str = "",
) -> Tensor:
    """MBConv with one convolution in place of its first 1x1 and its depthwise one: faster where there are few channels.

    Args:
        x: Images, `(batch, height, width, channels)`.
        filters: Channels that come out, >= 1.
        expansion: >= 1; at 1 there is the one convolution only, to `filters`.
        kernel_size: Of the convolution.
        strides: Likewise.
        squeeze_ratio: As in `mb_conv`; EfficientNetV2 has none here.
        activation: As in `mb_conv`.
        name: What names of the layers begin with.

    Returns:
        Images, `(batch, height / strides, width / strides, filters)`.

    Raises:
        ValueError: For what are no images, or numbers out of range.

    **Reference**: Tan and Le, "EfficientNetV2: Smaller models and faster training" (2021), figure 2.
    **Deviations**: no stochastic depth.
    """
    channels, units = image_channels(x, name), _units(x, squeeze_ratio, name)
    whole(filters, "filters", name)
    if not expansion >= 1:
        raise ValueError(f"Expected `expansion` >= 1{f' at {name!r}' if name else ''}. Received: expansion={expansion}")
    wide = round(channels * expansion)
    alone = wide == channels
    inside = conv_norm(x, filters if alone else wide, kernel_size, activation, name, "fused", strides=strides)
    if units:
        inside = squeeze_excitation(inside, units, name=f"{name}_se" if name else "")
    inside = inside if alone else conv_norm(inside, filters, 1, None, name, "project")
    return added(inside, x, name) if keeps_shape(x, filters, strides) else inside


def _units(x: Tensor, ratio: float, name: str) -> int:
    if not 0 <= ratio <= 1:
        where = f" at {name!r}" if name else ""
        raise ValueError(f"Expected `squeeze_ratio` in [0, 1]{where}. Received: squeeze_ratio={ratio}")
    return max(1, int(image_channels(x, name) * ratio)) if ratio else 0
