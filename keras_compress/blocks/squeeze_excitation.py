"""Squeeze and excitation: a factor for each channel, computed from the means of all."""

from __future__ import annotations

from keras import layers

from keras_compress.blocks.parts import Tensor, image_channels, named, whole


def squeeze_excitation(
    x: Tensor, units: int, *, activation: str = "relu", gate: str = "sigmoid", name: str = ""
) -> Tensor:
    """`x * gate(W2 activation(W1 mean(x)))`: the mean over all places, two 1x1 convolutions, a factor a channel.

    `2 * channels * units` multiplications and weights, beside the products.

    Args:
        x: Images, `(batch, height, width, channels)`.
        units: Between the two convolutions, >= 1; the paper takes a sixteenth of the channels, MobileNet v3 a quarter.
        activation: Behind the first.
        gate: Behind the second: `"sigmoid"`, or `"hard_sigmoid"` as in MobileNet v3.
        name: What names of the layers begin with.

    Returns:
        Images of the same shape.

    Raises:
        ValueError: For what are no images, or units below 1.

    **Reference**: Hu et al., "Squeeze-and-excitation networks" (2018), equations 2 to 4.
    """
    channels = image_channels(x, name)
    whole(units, "units", name)
    means = layers.GlobalAveragePooling2D(keepdims=True, name=named(name, "squeeze"))(x)
    fewer = layers.Conv2D(units, 1, activation=activation, name=named(name, "reduce"))(means)
    factors = layers.Conv2D(channels, 1, activation=gate, name=named(name, "excite"))(fewer)
    return layers.Multiply(name=named(name, "scale"))([x, factors])
