"""The inverted residual of MobileNet v2 and v3."""

from __future__ import annotations

from keras_compress.blocks.parts import Tensor, added, conv_norm, depthwise_norm, image_channels, keeps_shape, whole
from keras_compress.blocks.squeeze_excitation import squeeze_excitation


def inverted_residual(
    x: Tensor,
    filters: int,
    *,
    expansion: float = 6.0,
    kernel_size: int = 3,
    strides: int = 1,
    squeeze: int = 0,
    gate: str = "hard_sigmoid",
    activation: str = "relu6",
    name: str = "",
) -> Tensor:
    """A 1x1 convolution to `expansion` times the channels, a depthwise one, a 1x1 one back, linear; added to `x`.

    With d channels in, d' out and t the expansion, for each position at stride 1 `t d (d + k^2 + d')` multiplications.

    Args:
        x: Images, `(batch, height, width, channels)`.
        filters: Channels that come out, >= 1.
        expansion: >= 1; at 1 the first convolution is left out. MobileNet v2: 6.
        kernel_size: Of the depthwise convolution.
        strides: Likewise. With strides of 1 and as many filters as channels the input is added.
        squeeze: Units of a squeeze-and-excitation behind the depthwise convolution, 0 for none. MobileNet v3: a quarter
            of the expanded channels.
        gate: Its gate.
        activation: Behind the first two: `"relu6"` in v2, `"relu"` or `"hard_silu"` (hard-swish) in v3.
        name: What names of the layers begin with.

    Returns:
        Images, `(batch, height / strides, width / strides, filters)`.

    Raises:
        ValueError: For what are no images, or an expansion or filters below 1.

    **Reference**: Sandler et al., "MobileNetV2: Inverted residuals and linear bottlenecks" (2018), table 1 and section
    3; Howard et al., "Searching for MobileNetV3" (2019), sections 5.2 and 5.3.
    """
    channels = image_channels(x, name)
    whole(filters, "filters", name)
    if not expansion >= 1:
        raise ValueError(f"Expected `expansion` >= 1{f' at {name!r}' if name else ''}. Received: expansion={expansion}")
    wide = round(channels * expansion)
    inside = x if wide == channels else conv_norm(x, wide, 1, activation, name, "expand")
    inside = depthwise_norm(inside, kernel_size, activation, name, "depthwise", strides=strides)
    if squeeze:
        inside = squeeze_excitation(inside, squeeze, gate=gate, name=f"{name}_se" if name else "")
    inside = conv_norm(inside, filters, 1, None, name, "project")
    return added(inside, x, name) if keeps_shape(x, filters, strides) else inside
