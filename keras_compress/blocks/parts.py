"""What blocks are made of: convolutions with BatchNormalization and an activation; checks of what they are given."""

from __future__ import annotations

from typing import Any

from keras import layers

Tensor = Any
# Keras's 0.99 needs hundreds of batches before the moving statistics are right; small data sets have few.
MOMENTUM = 0.9


def named(name: str, part: str) -> str | None:
    """Name of a layer inside a block; Keras's own where the block has none."""
    return f"{name}_{part}" if name else None


def whole(value: Any, name: str, block: str, least: int = 1) -> int:
    """A whole number that is not too small.

    Args:
        value: What was given.
        name: For which argument.
        block: Name of the block, for the message.
        least: The smallest that is allowed.

    Raises:
        ValueError: For anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"Expected `{name}` as a whole number >= {least}{_at(block)}. Received: {name}={value!r}")
    return value


def divided(channels: int, parts: int, what: str, block: str) -> int:
    """How many channels each of equal parts has.

    Raises:
        ValueError: Where they do not divide.
    """
    if channels % parts:
        raise ValueError(f"Expected {what} that {parts} divides{_at(block)}. Received: {channels}")
    return channels // parts


def _at(block: str) -> str:
    return f" at {block!r}" if block else ""


def image_channels(x: Tensor, block: str) -> int:
    """Channels of a tensor of images.

    Raises:
        ValueError: For a tensor of another rank, or with a number of channels that is not known.
    """
    shape = tuple(getattr(x, "shape", ()))
    if len(shape) != 4 or shape[-1] is None:
        raise ValueError(f"Expected images, (batch, height, width, channels){_at(block)}. Received: shape={shape}")
    return int(shape[-1])


def activated(x: Tensor, activation: str | None, name: str = "", part: str = "relu") -> Tensor:
    """An activation as a layer; none for `None`."""
    if activation is None:
        return x
    if activation in ("relu", "relu6"):
        return layers.ReLU(6.0 if activation == "relu6" else None, name=named(name, part))(x)
    return layers.Activation(activation, name=named(name, part))(x)


def normalized(x: Tensor, activation: str | None, name: str, part: str) -> Tensor:
    """BatchNormalization, then an activation."""
    x = layers.BatchNormalization(momentum=MOMENTUM, name=named(name, f"{part}_norm"))(x)
    return activated(x, activation, name, f"{part}_{activation}")


def conv_norm(
    x: Tensor,
    filters: int,
    kernel_size: int | tuple[int, int],
    activation: str | None,
    name: str,
    part: str,
    **settings: Any,
) -> Tensor:
    """A convolution without bias, BatchNormalization, an activation."""
    layer = layers.Conv2D(filters, kernel_size, padding="same", use_bias=False, name=named(name, part), **settings)
    return normalized(layer(x), activation, name, part)


def depthwise_norm(
    x: Tensor, kernel_size: int | tuple[int, int], activation: str | None, name: str, part: str, **settings: Any
) -> Tensor:
    """A depthwise convolution without bias, BatchNormalization, an activation."""
    layer = layers.DepthwiseConv2D(kernel_size, padding="same", use_bias=False, name=named(name, part), **settings)
    return normalized(layer(x), activation, name, part)


def added(x: Tensor, shortcut: Tensor, name: str) -> Tensor:
    """The sum with what a block was given."""
    return layers.Add(name=named(name, "add"))([x, shortcut])


def keeps_shape(x: Tensor, filters: int, strides: int) -> bool:
    """Whether a block with these filters and strides gives what can be added to its input."""
    return strides == 1 and int(x.shape[-1]) == filters
