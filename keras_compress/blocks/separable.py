"""The depthwise-separable convolution of MobileNet v1."""

from __future__ import annotations

from keras_compress.blocks.parts import Tensor, conv_norm, depthwise_norm, image_channels, whole


def separable(
    x: Tensor, filters: int, *, kernel_size: int = 3, strides: int = 1, activation: str = "relu", name: str = ""
) -> Tensor:
    """A depthwise convolution, then a 1x1 convolution, each with BatchNormalization and an activation.

    With M channels in, N out and a kernel of D x D, for each position `D^2 M + M N` multiplications in place of
    `D^2 M N`: a share of `1/N + 1/D^2`.

    Args:
        x: Images, `(batch, height, width, channels)`.
        filters: Channels that come out, >= 1.
        kernel_size: Of the depthwise convolution, >= 1.
        strides: Likewise; height and width are divided by it, rounded up.
        activation: Name of a Keras activation, behind both.
        name: What names of the layers begin with.

    Returns:
        Images, `(batch, height / strides, width / strides, filters)`.

    Raises:
        ValueError: For what are no images, or numbers below 1.

    **Reference**: Howard et al., "MobileNets: Efficient convolutional neural networks for mobile vision applications"
    (2017), figure 3 and section 3.1.
    """
    image_channels(x, name)
    whole(filters, "filters", name)
    x = depthwise_norm(x, kernel_size, activation, name, "depthwise", strides=strides)
    return conv_norm(x, filters, 1, activation, name, "pointwise")
