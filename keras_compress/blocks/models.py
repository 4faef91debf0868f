"""Small members of each family of compact networks, for images of 28x28 or 32x32; logits as outputs, not compiled.

Weights are random: call `keras.utils.set_random_seed` before building for the same ones each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from keras_compress.blocks.active_shift import ActiveShift
from keras_compress.blocks.channel_split import channel_split_unit
from keras_compress.blocks.dense_block import dense_block, transition
from keras_compress.blocks.ghost import ghost_bottleneck
from keras_compress.blocks.inverted_residual import inverted_residual
from keras_compress.blocks.mb_conv import fused_mb_conv, mb_conv
from keras_compress.blocks.parts import Tensor, conv_norm, normalized, whole
from keras_compress.blocks.residual import basic_residual, bottleneck
from keras_compress.blocks.separable import separable
from keras_compress.blocks.shift import csc, shift_block
from keras_compress.blocks.shuffle_unit import shuffle_unit
from keras_compress.blocks.sspq import sspq_block

Shape = tuple[int, int, int]
# Widths are multiples of it where there is room, as kernels work in blocks.
_MULTIPLE = 8
# Block of a network: tensor, filters, strides, name -> tensor.
Block = Callable[[Tensor, int, int, str], Tensor]


def round_channels(channels: int, width: float, multiple: int = _MULTIPLE) -> int:
    """A number of channels, scaled: a multiple, but not below 90 % of what was asked for.

    Args:
        channels: At a width of 1.
        width: Factor, > 0.
        multiple: Of what, >= 1; the least that comes out.

    Raises:
        ValueError: For a width that leaves less than one channel.

    **Reference**: the rule of MobileNet v2's and EfficientNet's authors (`_make_divisible`).

    >>> [round_channels(24, width) for width in (0.35, 0.5, 1.0, 1.4)]
    [8, 16, 24, 32]
    """
    wanted = channels * width
    if not (isinstance(width, (int, float)) and math.isfinite(width) and wanted >= 1):
        raise ValueError(f"Expected a width that leaves one channel of {channels} at least. Received: width={width!r}")
    found = max(multiple, int(wanted + multiple / 2) // multiple * multiple)
    return found + multiple if found < 0.9 * wanted else found


def round_repeats(count: int, depth: float) -> int:
    """A number of blocks, scaled and rounded up.

    >>> [round_repeats(2, depth) for depth in (0.4, 1.0, 1.2)]
    [1, 2, 3]
    """
    if not (isinstance(depth, (int, float)) and math.isfinite(depth) and depth > 0):
        raise ValueError(f"Expected `depth` > 0. Received: depth={depth!r}")
    return math.ceil(count * depth - 1e-9)


def _image(input_shape: Shape, num_classes: int) -> Tensor:
    if len(input_shape) != 3 or min(input_shape[:2]) < 8 or input_shape[2] < 1:
        raise ValueError(
            "Expected input_shape=(height, width, channels) with height and width >= 8. Received: "
            f"input_shape={input_shape}"
        )
    whole(num_classes, "num_classes", "", 2)
    return keras.Input(input_shape, name="image")


def _classified(image: Tensor, x: Tensor, num_classes: int, name: str) -> keras.Model:
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(num_classes, name="logits")(x), name=name)


def _stage(x: Tensor, block: Block, filters: int, count: int, strides: int, name: str) -> Tensor:
    """Blocks one behind the other, the first of which strides."""
    for number in range(1, count + 1):
        x = block(x, filters, strides if number == 1 else 1, f"{name}_block{number}")
    return x


def mobilenet_v1(
    input_shape: Shape = (28, 28, 1), num_classes: int = 10, *, width: float = 1.0, stem_strides: int = 1
) -> keras.Model:
    """MobileNet: separable convolutions. 56,906 parameters and 4.15 million MACs at 28x28x1.

    Args:
        input_shape: `(height, width, channels)`, height and width >= 8.
        num_classes: Number of logits, >= 2.
        width: Factor of all widths, > 0.
        stem_strides: Of the first convolution; 2 takes a quarter of the time.

    Raises:
        ValueError: For arguments out of range.

    **Reference**: Howard et al. (2017), see `separable`. **Deviations**: six blocks in place of thirteen.
    """
    image = _image(input_shape, num_classes)
    x = conv_norm(image, round_channels(16, width), 3, "relu", "stem", "conv", strides=stem_strides)
    for number, (filters, strides) in enumerate([(32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (128, 1)], 1):
        x = separable(x, round_channels(filters, width), strides=strides, name=f"block{number}")
    return _classified(image, x, num_classes, "mobilenet_v1")


def mobilenet_v2(
    input_shape: Shape = (28, 28, 1), num_classes: int = 10, *, width: float = 1.0, stem_strides: int = 1
) -> keras.Model:
    """MobileNetV2: inverted residuals. Arguments and errors as in `mobilenet_v1`.

    **Reference**: Sandler et al. (2018), see `inverted_residual`. **Deviations**: the first four rows of their table 2,
    the last layer with 128 channels.
    """
    image = _image(input_shape, num_classes)
    x = conv_norm(image, round_channels(16, width), 3, "relu6", "stem", "conv", strides=stem_strides)
    for number, (expansion, filters, count, strides) in enumerate(
        [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 2, 1)], 1
    ):

        def block(x: Tensor, filters: int, strides: int, name: str, expansion: int = expansion) -> Tensor:
            return inverted_residual(x, filters, expansion=expansion, strides=strides, name=name)

        x = _stage(x, block, round_channels(filters, width), count, strides, f"stage{number}")
    x = conv_norm(x, round_channels(128, max(width, 1.0)), 1, "relu6", "head", "conv")
    return _classified(image, x, num_classes, "mobilenet_v2")


# Kernel size, expanded channels, channels, squeeze-and-excitation, activation, strides.
_V3 = (
    (3, 16, 16, True, "relu", 1),
    (3, 72, 24, False, "relu", 2),
    (3, 88, 24, False, "relu", 1),
    (5, 96, 40, True, "hard_silu", 2),
    (5, 240, 40, True, "hard_silu", 1),
    (5, 120, 48, True, "hard_silu", 1),
)


def mobilenet_v3(
    input_shape: Shape = (28, 28, 1), num_classes: int = 10, *, width: float = 1.0, stem_strides: int = 1
) -> keras.Model:
    """MobileNetV3: inverted residuals with squeeze-and-excitation and hard-swish. Arguments as in `mobilenet_v1`.

    **Reference**: Howard et al. (2019), table 2 (small), as far as 48 channels.
    """
    image = _image(input_shape, num_classes)
    x = conv_norm(image, round_channels(16, width), 3, "hard_silu", "stem", "conv", strides=stem_strides)
    for number, (size, expanded, filters, squeezes, activation, strides) in enumerate(_V3, 1):
        wide = round_channels(expanded, width)
        x = inverted_residual(
            x,
            round_channels(filters, width),
            expansion=max(1.0, wide / x.shape[-1]),
            kernel_size=size,
            strides=strides,
            squeeze=round_channels(wide, 0.25) if squeezes else 0,
            activation=activation,
            name=f"block{number}",
        )
    x = conv_norm(x, round_channels(144, width), 1, "hard_silu", "head", "conv")
    return _classified(image, x, num_classes, "mobilenet_v3")


def efficientnet(
    input_shape: Shape = (28, 28, 1),
    num_classes: int = 10,
    *,
    width: float = 1.0,
    depth: float = 1.0,
    stem_strides: int = 1,
    activation: str = "silu",
) -> keras.Model:
    """EfficientNet: MBConv. Other arguments as in `mobilenet_v1`; see `scale` for its compound scaling.

    Args:
        input_shape: `(height, width, channels)`.
        num_classes: Number of logits.
        width: Factor of all widths.
        depth: Factor of the number of blocks, rounded up.
        stem_strides: Of the first convolution.
        activation: See `mb_conv`.

    **Reference**: Tan and Le (2019), table 1, its first five stages.
    """
    image = _image(input_shape, num_classes)
    x = conv_norm(image, round_channels(16, width), 3, activation, "stem", "conv", strides=stem_strides)
    rows = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 64, 2, 1, 3)]
    for number, (expansion, filters, count, strides, size) in enumerate(rows, 1):
        settings: dict[str, Any] = {"expansion": expansion, "kernel_size": size, "activation": activation}

        def block(x: Tensor, filters: int, strides: int, name: str, given: dict[str, Any] = settings) -> Tensor:
            return mb_conv(x, filters, strides=strides, name=name, **given)

        repeats = round_repeats(count, depth)
        x = _stage(x, block, round_channels(filters, width), repeats, strides, f"stage{number}")
    x = conv_norm(x, round_channels(128, width), 1, activation, "head", "conv")
    return _classified(image, x, num_classes, "efficientnet")


def efficientnet_v2(
    input_shape: Shape = (28, 28, 1),
    num_classes: int = 10,
    *,
    width: float = 1.0,
    depth: float = 1.0,
    stem_strides: int = 1,
    activation: str = "silu",
) -> keras.Model:
    """EfficientNetV2: fused MBConv first, MBConv behind. Arguments as in `efficientnet`.

    **Reference**: Tan and Le (2021), table 4, in small.
    """
    image = _image(input_shape, num_classes)
    x = conv_norm(image, round_channels(16, width), 3, activation, "stem", "conv", strides=stem_strides)

    def fused(x: Tensor, filters: int, strides: int, name: str) -> Tensor:
        expansion = 4 if strides > 1 else 1
        return fused_mb_conv(x, filters, expansion=expansion, strides=strides, activation=activation, name=name)

    def plain(x: Tensor, filters: int, strides: int, name: str) -> Tensor:
        return mb_conv(x, filters, expansion=4, strides=strides, activation=activation, name=name)

    rows: list[tuple[Block, int, int, int]] = [(fused, 16, 1, 1), (fused, 24, 2, 2), (plain, 48, 2, 2)]
    for number, (block, filters, count, strides) in enumerate(rows, 1):
        repeats = round_repeats(count, depth)
        x = _stage(x, block, round_channels(filters, width), repeats, strides, f"stage{number}")
    x = conv_norm(x, round_channels(128, width), 1, activation, "head", "conv")
    return _classified(image, x, num_classes, "efficientnet_v2")


def shufflenet_v1(
    input_shape: Shape = (28, 28, 1),
    num_classes: int = 10,
    *,
    width: float = 1.0,
    groups: int = 4,
    stem_strides: int = 1,
) -> keras.Model:
    """ShuffleNet: 1x1 convolutions in groups, channel shuffle. Other arguments as in `mobilenet_v1`.

    Args:
        input_shape: `(height, width, channels)`.
        num_classes: Number of logits.
        width: Factor of all widths, which are multiples of four times the groups.
        groups: Of the 1x1 convolutions, >= 1.
        stem_strides: Of the first convolution.

    **Reference**: Zhang et al. (2018), table 1, two stages of four units.
    """
    image = _image(input_shape, num_classes)
    multiple = 4 * whole(groups, "groups", "")
    x = conv_norm(image, round_channels(16, width, multiple), 3, "relu", "stem", "conv", strides=stem_strides)
    for stage, filters in enumerate((96, 192), 1):
        for number in range(1, 5):
            x = shuffle_unit(
                x,
                round_channels(filters, width, multiple),
                groups=groups,
                strides=2 if number == 1 else 1,
                grouped_input=(stage, number) != (1, 1),
                name=f"stage{stage}_unit{number}",
            )
    return _classified(image, x, num_classes, "shufflenet_v1")


def shufflenet_v2(
    input_shape: Shape = (28, 28, 1), num_classes: int = 10, *, width: float = 1.0, stem_strides: int = 1
) -> keras.Model:
    """ShuffleNetV2: channel split. Arguments as in `mobilenet_v1`.

    **Reference**: Ma et al. (2018), table 5, two stages of four units.
    """
    image = _image(input_shape, num_classes)
    x = conv_norm(image, round_channels(24, width), 3, "relu", "stem", "conv", strides=stem_strides)
    for stage, filters in enumerate((64, 128), 1):
        x = _stage(x, _split, round_channels(filters, width), 4, 2, f"stage{stage}")
    x = conv_norm(x, round_channels(128, width), 1, "relu", "head", "conv")
    return _classified(image, x, num_classes, "shufflenet_v2")


def _split(x: Tensor, filters: int, strides: int, name: str) -> Tensor:
    return channel_split_unit(x, filters, strides=strides, name=name)


# Kernel size, channels inside, channels, squeeze-and-excitation, strides.
_GHOST = (
    (3, 16, 16, False, 1),
    (3, 48, 24, False, 2),
    (3, 72, 24, False, 1),
    (5, 72, 40, True, 2),
    (5, 120, 40, True, 1),
    (3, 184, 80, False, 1),
    (3, 184, 80, False, 1),
)


def ghostnet(
    input_shape: Shape = (28, 28, 1), num_classes: int = 10, *, width: float = 1.0, stem_strides: int = 1
) -> keras.Model:
    """GhostNet: ghost bottlenecks. Arguments as in `mobilenet_v1`.

    **Reference**: Han et al. (2020), table 1, as far as 80 channels.
    """
    image = _image(input_shape, num_classes)
    x = conv_norm(image, round_channels(16, width), 3, "relu", "stem", "conv", strides=stem_strides)
    for number, (size, expanded, filters, squeezes, strides) in enumerate(_GHOST, 1):
        inside = round_channels(expanded, width)
        x = ghost_bottleneck(
            x,
            round_channels(filters, width),
            expanded=inside,
            kernel_size=size,
            strides=strides,
            squeeze=round_channels(inside, 0.25) if squeezes else 0,
            name=f"block{number}",
        )
    x = conv_norm(x, round_channels(160, width), 1, "relu", "head", "conv")
    return _classified(image, x, num_classes, "ghostnet")


def shiftnet(
    input_shape: Shape = (28, 28, 1),
    num_classes: int = 10,
    *,
    width: float = 1.0,
    expansion: float = 2.0,
    active: bool = False,
    stem_strides: int = 1,
) -> keras.Model:
    """ShiftNet, or with trained displacements: shifts between 1x1 convolutions. Other arguments as in `mobilenet_v1`.

    Args:
        input_shape: `(height, width, channels)`.
        num_classes: Number of logits.
        width: Factor of all widths.
        expansion: See `shift_block`.
        active: Whether displacements are trained: `ActiveShift(whole_pixels=True)`.
        stem_strides: Of the first convolution.

    **Reference**: Wu et al. (2018), table 2, in small; Jeon and Kim (2018) for `active`.
    """
    image = _image(input_shape, num_classes)
    stem = layers.Conv2D(round_channels(16, width), 3, stem_strides, "same", use_bias=False, name="stem_conv")

    def block(x: Tensor, filters: int, strides: int, name: str) -> Tensor:
        if not active:
            return shift_block(x, filters, expansion=expansion, strides=strides, name=name)
        shift = ActiveShift(3, whole_pixels=True, name=f"{name}_shift")
        return csc(x, shift, filters, expansion, strides, name)

    x = stem(image)
    for stage, filters in enumerate((32, 64, 128), 1):
        x = _stage(x, block, round_channels(filters, width), 2, min(stage, 2), f"stage{stage}")
    return _classified(image, normalized(x, "relu", "head", "out"), num_classes, "shiftnet")


def densenet(
    input_shape: Shape = (28, 28, 1), num_classes: int = 10, *, width: float = 1.0, stem_strides: int = 1
) -> keras.Model:
    """DenseNet-BC: three blocks of four layers. Arguments as in `mobilenet_v1`; the width is that of the growth.

    **Reference**: Huang et al. (2017), section 3, in small: a growth of 12.
    """
    image = _image(input_shape, num_classes)
    growth = round_channels(12, width, 4)
    stem = layers.Conv2D(2 * growth, 3, stem_strides, "same", use_bias=False, name="stem_conv")
    x = stem(image)
    for number in range(1, 4):
        x = dense_block(x, growth, count=4, name=f"dense{number}")
        if number < 3:
            x = transition(x, x.shape[-1] // 2, name=f"dense{number}")
    return _classified(image, normalized(x, "relu", "head", "out"), num_classes, "densenet")


def resnet(
    input_shape: Shape = (28, 28, 1),
    num_classes: int = 10,
    *,
    width: float = 1.0,
    depth: float = 1.0,
    stem_strides: int = 1,
) -> keras.Model:
    """ResNet of basic blocks, two in each of three stages of 16, 32 and 64 channels. Arguments as in `efficientnet`.

    **Reference**: He et al. (2016), section 4.2.
    """

    def block(x: Tensor, filters: int, strides: int, name: str) -> Tensor:
        return basic_residual(x, filters, strides=strides, name=name)

    return _three_stages("resnet", input_shape, num_classes, block, (16, 32, 64), width, depth, stem_strides)


def resnext(
    input_shape: Shape = (28, 28, 1),
    num_classes: int = 10,
    *,
    width: float = 1.0,
    depth: float = 1.0,
    groups: int = 4,
    stem_strides: int = 1,
) -> keras.Model:
    """ResNeXt: bottlenecks with groups; with `groups=1` ResNet's bottlenecks. Other arguments as in `efficientnet`.

    Args:
        input_shape: `(height, width, channels)`.
        num_classes: Number of logits.
        width: Factor of all widths.
        depth: Factor of the number of blocks.
        groups: Cardinality, a divisor of half of the widths.
        stem_strides: Of the first convolution.

    **Reference**: Xie et al. (2017), table 1, in small.
    """

    def block(x: Tensor, filters: int, strides: int, name: str) -> Tensor:
        return bottleneck(x, filters, inside=filters // 2, groups=groups, strides=strides, name=name)

    return _three_stages("resnext", input_shape, num_classes, block, (32, 64, 128), width, depth, stem_strides)


def sspq(
    input_shape: Shape = (28, 28, 1),
    num_classes: int = 10,
    *,
    width: float = 1.0,
    depth: float = 1.0,
    expansion: float = 3.0,
    stem_strides: int = 1,
) -> keras.Model:
    """SSPQ before its weights are quantized: inverted residuals with active shifts. Arguments as in `efficientnet`.

    Args:
        input_shape: `(height, width, channels)`.
        num_classes: Number of logits.
        width: Factor of all widths.
        depth: Factor of the number of blocks.
        expansion: See `sspq_block`.
        stem_strides: Of the first convolution.
    """

    def block(x: Tensor, filters: int, strides: int, name: str) -> Tensor:
        return sspq_block(x, filters, expansion=expansion, strides=strides, name=name)

    return _three_stages("sspq", input_shape, num_classes, block, (16, 32, 64), width, depth, stem_strides)


def _three_stages(
    name: str,
    input_shape: Shape,
    num_classes: int,
    block: Block,
    widths: tuple[int, int, int],
    width: float,
    depth: float,
    stem_strides: int,
) -> keras.Model:
    """A 3x3 convolution, three stages of two blocks, the mean, logits."""
    image = _image(input_shape, num_classes)
    x = conv_norm(image, round_channels(16, width), 3, "relu", "stem", "conv", strides=stem_strides)
    for stage, filters in enumerate(widths, 1):
        x = _stage(x, block, round_channels(filters, width), round_repeats(2, depth), min(stage, 2), f"stage{stage}")
    return _classified(image, x, num_classes, name)


# Name -> architecture.
MODELS: dict[str, Callable[..., keras.Model]] = {
    each.__name__: each
    for each in (
        mobilenet_v1,
        mobilenet_v2,
        mobilenet_v3,
        efficientnet,
        efficientnet_v2,
        shufflenet_v1,
        shufflenet_v2,
        ghostnet,
        shiftnet,
        densenet,
        resnet,
        resnext,
        sspq,
    )
}
