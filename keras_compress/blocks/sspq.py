"""The block of SSPQ: an inverted residual whose spatial part is an active shift."""

from __future__ import annotations

from keras_compress.blocks.active_shift import ActiveShift
from keras_compress.blocks.parts import Tensor, added, conv_norm, image_channels, keeps_shape, named, whole


def sspq_block(
    x: Tensor,
    filters: int,
    *,
    expansion: float = 3.0,
    kernel_size: int = 3,
    strides: int = 1,
    whole_pixels: bool = True,
    name: str = "",
) -> Tensor:
    """A 1x1 convolution to more channels, an active shift, a 1x1 one back, linear; the input is added.

    All its weights are in 1x1 convolutions, each with BatchNormalization behind it: quantize them by
    `kc.quantize_model(model, "dorefa4")`, and the normalization scales what quantized weights give.

    Args:
        x: Images, `(batch, height, width, channels)`.
        filters: Channels that come out, >= 1.
        expansion: >= 1.
        kernel_size: Of the shift, an odd number >= 3.
        strides: Of the last convolution.
        whole_pixels: See `ActiveShift`.
        name: What names of the layers begin with.

    Returns:
        Images, `(batch, height / strides, width / strides, filters)`.

    Raises:
        ValueError: For what are no images, or numbers out of range.

    **Reference**: Sandler et al., "MobileNetV2" (2018), for the inverted residual; Jeon and Kim, "Constructing fast
    network through deconstruction of convolution" (2018), for the shift; Zhou et al., "DoReFa-Net" (2016), for the
    weights.
    """
    channels = image_channels(x, name)
    whole(filters, "filters", name)
    if not expansion >= 1:
        raise ValueError(f"Expected `expansion` >= 1{f' at {name!r}' if name else ''}. Received: expansion={expansion}")
    y = conv_norm(x, round(channels * expansion), 1, "relu", name, "expand")
    y = ActiveShift(kernel_size, whole_pixels=whole_pixels, name=named(name, "shift"))(y)
    y = conv_norm(y, filters, 1, None, name, "project", strides=strides)
    return added(y, x, name) if keeps_shape(x, filters, strides) else y
