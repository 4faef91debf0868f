"""Dilated convolutions: a wide view at the price of a narrow one."""

from __future__ import annotations

from collections.abc import Sequence

from keras import layers

from keras_compress.blocks.parts import Tensor, activated, added, conv_norm, image_channels, keeps_shape, named, whole


def dilated(
    x: Tensor, filters: int, *, rates: Sequence[int] = (1, 2, 4), kernel_size: int = 3, name: str = ""
) -> Tensor:
    """Convolutions one behind the other, whose taps lie further and further apart; the input is added where it fits.

    Each sees `(kernel_size - 1) * rate` places more: at 3x3 with rates of 1, 2, 4 the last one sees 15x15.

    Args:
        x: Images, `(batch, height, width, channels)`.
        filters: Channels of all of them, >= 1.
        rates: Distance of neighbouring taps, >= 1 each.
        kernel_size: Of all of them.
        name: What names of the layers begin with.

    Returns:
        Images, `(batch, height, width, filters)`.

    Raises:
        ValueError: For what are no images, numbers below 1, or no rates.

    **Reference**: Yu and Koltun, "Multi-scale context aggregation by dilated convolutions" (2016).
    **Deviations**: BatchNormalization, and a sum with the input as in dilated residual networks (Yu et al. 2017).
    """
    image_channels(x, name)
    whole(filters, "filters", name)
    y = x
    for number, rate in enumerate(_checked(rates, name), 1):
        activation = None if number == len(rates) else "relu"
        y = conv_norm(y, filters, kernel_size, activation, name, f"conv{number}", dilation_rate=rate)
    y = added(y, x, name) if keeps_shape(x, filters, 1) else y
    return activated(y, "relu", name, "out_relu")


def aspp(x: Tensor, filters: int, *, rates: Sequence[int] = (2, 4), name: str = "") -> Tensor:
    """Atrous spatial pyramid pooling: a 1x1 convolution, one for each rate and the mean of the image, side by side.

    Args:
        x: Images, `(batch, height, width, channels)`, of a known size.
        filters: Channels of each part, and of what comes out, >= 1.
        rates: Distance of neighbouring taps of each 3x3 convolution. DeepLab: 6, 12, 18 on large images.
        name: What names of the layers begin with.

    Returns:
        Images, `(batch, height, width, filters)`.

    Raises:
        ValueError: For what are no images or ones of unknown size, numbers below 1, or no rates.

    **Reference**: Chen et al., "Rethinking atrous convolution for semantic image segmentation" (2017), section 3.3.
    """
    image_channels(x, name)
    whole(filters, "filters", name)
    height, width = x.shape[1:3]
    if height is None or width is None:
        raise ValueError(f"Expected images of a known size{f' at {name!r}' if name else ''}. Received: {x.shape}")
    parts = [conv_norm(x, filters, 1, "relu", name, "point")]
    for rate in _checked(rates, name):
        parts.append(conv_norm(x, filters, 3, "relu", name, f"rate{rate}", dilation_rate=rate))
    mean = layers.GlobalAveragePooling2D(keepdims=True, name=named(name, "mean"))(x)
    mean = conv_norm(mean, filters, 1, "relu", name, "image")
    parts.append(layers.UpSampling2D((height, width), name=named(name, "everywhere"))(mean))
    joined = layers.Concatenate(name=named(name, "join"))(parts)
    return conv_norm(joined, filters, 1, "relu", name, "out")


def _checked(rates: Sequence[int], name: str) -> Sequence[int]:
    if not rates:
        raise ValueError(f"Expected at least one rate{f' at {name!r}' if name else ''}. Received: rates={rates!r}")
    for rate in rates:
        whole(rate, "rates", name)
    return rates
