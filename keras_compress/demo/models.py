"""Demo architectures: small Keras 3 models with logits as outputs, not compiled.

Weights are random: call `keras.utils.set_random_seed` before building for the same ones each time.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import layers

Shape = tuple[int, int, int]

# Keras's 0.99 needs hundreds of batches before the moving statistics are right; digits has 23 an epoch.
_MOMENTUM = 0.9


def digits_cnn(input_shape: Shape = (8, 8, 1), num_classes: int = 10) -> keras.Model:
    """Conv, depthwise and 1x1 conv with BatchNorm, residual add, pooling, dense: 22,914 parameters at 8x8x1.

    Args:
        input_shape: `(height, width, channels)`, height and width at least 2.
        num_classes: Number of logits.
    """
    inputs = keras.Input(input_shape, name="image")
    x = _conv_norm(inputs, 32, 3, "stem")
    x = layers.ReLU(name="stem_relu")(x)
    shortcut = x
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.BatchNormalization(momentum=_MOMENTUM, name="depthwise_norm")(x)
    x = layers.ReLU(name="depthwise_relu")(x)
    x = _conv_norm(x, 32, 1, "pointwise")
    x = layers.Add(name="residual")([x, shortcut])
    x = layers.ReLU(name="residual_relu")(x)
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(40, activation="relu", name="hidden")(x)
    outputs = layers.Dense(num_classes, name="logits")(x)
    return keras.Model(inputs, outputs, name="digits_cnn")


def lenet5(input_shape: Shape = (28, 28, 1), num_classes: int = 10) -> keras.Model:
    """The LeNet-5 of Caffe and Deep Compression, 20-50-500: 431,080 parameters at 28x28x1.

    Args:
        input_shape: `(height, width, channels)`, height and width at least 16.
        num_classes: Number of logits.
    """
    inputs = keras.Input(input_shape, name="image")
    x = layers.Conv2D(20, 5, activation="relu", name="conv1")(inputs)
    x = layers.MaxPooling2D(2, name="pool1")(x)
    x = layers.Conv2D(50, 5, activation="relu", name="conv2")(x)
    x = layers.MaxPooling2D(2, name="pool2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(500, activation="relu", name="hidden")(x)
    outputs = layers.Dense(num_classes, name="logits")(x)
    return keras.Model(inputs, outputs, name="lenet5")


def lenet300(input_shape: Shape = (28, 28, 1), num_classes: int = 10) -> keras.Model:
    """LeNet-300-100, dense layers only: 266,610 parameters at 28x28x1.

    Args:
        input_shape: `(height, width, channels)`.
        num_classes: Number of logits.
    """
    inputs = keras.Input(input_shape, name="image")
    x = layers.Flatten(name="flatten")(inputs)
    x = layers.Dense(300, activation="relu", name="hidden1")(x)
    x = layers.Dense(100, activation="relu", name="hidden2")(x)
    outputs = layers.Dense(num_classes, name="logits")(x)
    return keras.Model(inputs, outputs, name="lenet300")


def resnet20(input_shape: Shape = (28, 28, 1), num_classes: int = 10, filters: int = 16) -> keras.Model:
    """ResNet-20 (three stages of three blocks, projection shortcuts): 274,042 parameters at 32x32x3.

    Args:
        input_shape: `(height, width, channels)`.
        num_classes: Number of logits.
        filters: Channels of the first stage; the others have twice and four times as many.

    Reference: He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2.
    **Deviations**: shortcuts that change the shape are 1x1 convs with BatchNorm (option B), not padding.
    """
    return _resnet("resnet20", input_shape, num_classes, filters, blocks=3, stem_strides=1)


def resnet8(input_shape: Shape = (28, 28, 1), num_classes: int = 10, filters: int = 32) -> keras.Model:
    """ResNet-8 (three stages of one block), wide, with a stem of stride 4: 309,930 parameters at 28x28x1.

    Args:
        input_shape: `(height, width, channels)`.
        num_classes: Number of logits.
        filters: Channels of the first stage; the others have twice and four times as many.

    Reference: as for `resnet20`; one block a stage as in MLPerf Tiny's image classification.
    **Deviations**: a stem of stride 4 and twice the channels, which train as fast and leave something to prune.
    """
    return _resnet("resnet8", input_shape, num_classes, filters, blocks=1, stem_strides=4)


def vgg(
    input_shape: Shape = (28, 28, 1), num_classes: int = 10, filters: int = 16, stem_strides: int = 2
) -> keras.Model:
    """A small VGG with BatchNorm, two convs in each of three stages: 78,234 parameters at 28x28x1.

    Args:
        input_shape: `(height, width, channels)`, height and width at least 4 strides of the stem, less 1.
        num_classes: Number of logits.
        filters: Channels of the first stage; the others have twice and four times as many.
        stem_strides: Strides of the first conv, whose kernel is one wider.

    Reference: Simonyan and Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image Recognition".
    """
    inputs = keras.Input(input_shape, name="image")
    x = inputs
    for stage in range(3):
        if stage:
            x = layers.MaxPooling2D(2, name=f"pool{stage}")(x)
        for conv in range(2):
            name = f"stage{stage + 1}_conv{conv + 1}"
            strides = stem_strides if stage == conv == 0 else 1
            x = _conv_norm(x, filters * 2**stage, max(3, strides + 1), name, strides)
            x = layers.ReLU(name=f"{name}_relu")(x)
    x = layers.Flatten(name="flatten")(x)
    outputs = layers.Dense(num_classes, name="logits")(x)
    return keras.Model(inputs, outputs, name="vgg")


def build(name: str, input_shape: Shape | None = None, num_classes: int = 10) -> keras.Model:
    """Builds a demo model by name.

    Args:
        name: A key of `MODELS`.
        input_shape: `(height, width, channels)`; the architecture's own if not given.
        num_classes: Number of logits, at least 2.

    Raises:
        ValueError: Unknown name, or a shape that the architecture cannot take.

    >>> build("lenet5", (28, 28, 1)).count_params()
    431080
    """
    if name not in MODELS:
        raise ValueError(f"Expected one of {sorted(MODELS)}. Received: name={name!r}")
    if num_classes < 2:
        raise ValueError(f"Expected num_classes >= 2. Received: num_classes={num_classes}")
    architecture, smallest = MODELS[name]
    if input_shape is None:
        return architecture(num_classes=num_classes)
    if len(input_shape) != 3 or min(input_shape[:2]) < smallest or input_shape[2] < 1:
        raise ValueError(
            f"Expected input_shape=(height, width, channels) with height and width >= {smallest} for "
            f"{name!r}. Received: input_shape={input_shape}"
        )
    return architecture(input_shape=input_shape, num_classes=num_classes)


def _conv_norm(x: keras.KerasTensor, filters: int, size: int, name: str, strides: int = 1) -> keras.KerasTensor:
    """Conv without bias, then BatchNorm."""
    x = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False, name=name)(x)
    return layers.BatchNormalization(momentum=_MOMENTUM, name=f"{name}_norm")(x)


def _resnet(
    name: str, input_shape: Shape, num_classes: int, filters: int, *, blocks: int, stem_strides: int
) -> keras.Model:
    """Three stages of residual blocks, global average pooling, logits."""
    inputs = keras.Input(input_shape, name="image")
    x = _conv_norm(inputs, filters, max(3, stem_strides + 1), "stem", stem_strides)
    x = layers.ReLU(name="stem_relu")(x)
    for stage in range(3):
        for block in range(blocks):
            strides = 2 if stage > 0 and block == 0 else 1
            x = _residual_block(x, filters * 2**stage, strides, f"stage{stage + 1}_block{block + 1}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(num_classes, name="logits")(x)
    return keras.Model(inputs, outputs, name=name)


def _residual_block(x: keras.KerasTensor, filters: int, strides: int, name: str) -> keras.KerasTensor:
    """Two 3x3 convs and a shortcut, which is projected where the shape changes."""
    shortcut = x
    if strides != 1 or x.shape[-1] != filters:
        shortcut = _conv_norm(x, filters, 1, f"{name}_shortcut", strides)
    x = _conv_norm(x, filters, 3, f"{name}_conv1", strides)
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = _conv_norm(x, filters, 3, f"{name}_conv2")
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.ReLU(name=f"{name}_relu2")(x)


# Name -> (architecture, smallest height and width that it takes).
MODELS: dict[str, tuple[Callable[..., keras.Model], int]] = {
    "digits_cnn": (digits_cnn, 2),
    "lenet5": (lenet5, 16),
    "lenet300": (lenet300, 1),
    "resnet20": (resnet20, 1),
    "resnet8": (resnet8, 1),
    "vgg": (vgg, 7),
}
