"""The VGG of the benchmarks in the form of ReActNet: signs with trained thresholds, and shortcuts."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

import keras_compress as kc

FILTERS = (16, 32, 64)
MOMENTUM = 0.9


def reactnet(source: keras.Model, weights: Any = "bwn") -> keras.Model:
    """A network of the same convolutions as `models.vgg()`, with its weights.

    The first convolution and the last layer are not binary. Pooling comes before a stage's first convolution, and a
    shortcut to twice the channels has them twice.

    Args:
        source: Trained `models.vgg()`.
        weights: Weight quantizer of the binary convolutions; `None` leaves them as they are.

    **Reference**: Liu et al., "ReActNet" (2020), figure 5; Liu et al., "Bi-Real Net" (2018), section 3.1.
    """
    inputs = keras.Input(source.input_shape[1:], name="image")
    stem = source.get_layer("stage1_conv1")
    x = layers.Conv2D.from_config(stem.get_config())(inputs)
    x = layers.BatchNormalization(momentum=MOMENTUM, name="stage1_conv1_norm")(x)
    for stage, filters in enumerate(FILTERS, 1):
        x = x if stage == 1 else layers.MaxPooling2D(2, name=f"pool{stage - 1}")(x)
        for conv in (1, 2):
            if (stage, conv) != (1, 1):
                x = _block(x, filters, f"stage{stage}_conv{conv}", weights)
    x = layers.Flatten(name="flatten")(x)
    model = keras.Model(inputs, layers.Dense(10, name="logits")(x), name="reactnet")
    take_weights(model, source)
    return model


def _block(x: Any, filters: int, name: str, weights: Any) -> Any:
    made = {"padding": "same", "use_bias": False, "name": name}
    conv = kc.QuantConv2D(filters, 3, kernel_quantizer=weights, input_quantizer="rsign", **made)
    y = layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")(conv(x))
    shortcut = x if x.shape[-1] == filters else layers.Concatenate(name=f"{name}_twice")([x, x])
    return kc.RPReLU(name=f"{name}_shifted")(layers.Add(name=f"{name}_sum")([y, shortcut]))


def take_weights(model: keras.Model, source: keras.Model) -> None:
    """Give a model the weights of another one, layer by layer, where names and shapes are the same."""
    known = {layer.name: layer for layer in source.layers}
    for layer in model.layers:
        other = known.get(layer.name)
        if other is None:
            continue
        target = {v.name: v for v in getattr(layer, "layer", layer).variables}
        for value in getattr(other, "layer", other).variables:
            variable = target.get(value.name)
            if variable is not None and variable.shape == value.shape:
                variable.assign(np.asarray(value))


def with_larger_weights(model: keras.Model) -> keras.Model:
    """The same function with kernels that rounding to -1, 0 and 1 leaves a third of at 0; in place.

    WRPN's levels do not follow the size of the weights, and those of a trained net are all below 1/2. What a
    convolution is multiplied by, the normalization behind it divides by. The thresholds are those of TWN, 0.7 of the
    mean magnitude, brought to 1/2 for each channel.
    """
    norms = {layer.name: layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)}
    for layer in model.layers:
        norm = norms.get(f"{layer.name}_norm")
        if norm is None:
            continue
        kernel = np.asarray(layer.kernel)
        factor = 0.5 / (0.7 * np.abs(kernel).mean((0, 1, 2)) + 1e-12)
        layer.kernel.assign(kernel * factor)
        norm.moving_mean.assign(np.asarray(norm.moving_mean) * factor)
        norm.moving_variance.assign(np.asarray(norm.moving_variance) * factor**2)
    return model
