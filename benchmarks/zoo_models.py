"""The networks of `zoo.py`, with random weights under which activations do not vanish, and their data."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from zoo_members import Member

Array = np.ndarray[Any, Any]


def build(which: Member, seed: int) -> keras.Model:
    """The network with seeded weights and seeded, non-trivial statistics of its normalizations."""
    keras.utils.set_random_seed(seed)
    if which.builder == "tiny":
        model = _tiny()
    else:
        shape = {} if which.input_size is None else {"input_shape": (which.input_size, which.input_size, 3)}
        model = getattr(keras.applications, which.builder)(weights=None, **which.arguments, **shape)
    _keep_variance(model)
    _give_statistics(model, np.random.default_rng(seed))
    _spread_logits(model, seed)
    return model


def _tiny() -> keras.Model:
    layers = keras.layers
    inputs = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(4, activation="softmax", name="predictions")(x), name="tiny")


def _keep_variance(model: keras.Model) -> None:
    """Scale all kernels to He's variance, 2 over the inputs that one output sees.

    Keras's own initial values make depthwise convolutions, and deep networks, forget their input: after ten layers
    the offsets of the normalizations are all that is left.
    """
    for layer in model._flatten_layers():
        for variable in layer._trainable_variables:
            if variable.name.endswith("kernel"):
                depthwise = variable.name == "depthwise_kernel" or isinstance(layer, keras.layers.DepthwiseConv2D)
                inputs = math.prod(variable.shape[: 2 if depthwise else -1])
                variable.assign(variable * (math.sqrt(2.0 / inputs) / keras.ops.std(variable)))


def _give_statistics(model: keras.Model, random: np.random.Generator) -> None:
    """A fresh BatchNormalization is the identity: no factor to fold, no offset, and activations that die out."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            count = layer.moving_mean.shape[0]
            if layer.scale:
                layer.gamma.assign(random.uniform(0.8, 1.2, count))
            if layer.center:
                layer.beta.assign(random.normal(0.0, 0.1, count))
            layer.moving_mean.assign(random.normal(0.0, 0.1, count))
            layer.moving_variance.assign(random.uniform(0.8, 1.2, count))


def _spread_logits(model: keras.Model, seed: int) -> None:
    """Scale the last weights so that their softmax is not flat: 1 in 1,000 is less than a step of its integers."""
    last = [layer for layer in model.layers if hasattr(layer, "kernel")][-1]
    features = keras.Model(model.input, last.input)(data(model, 2, seed), training=False)
    logits = np.asarray(features).reshape(2, -1) @ np.asarray(last.kernel).reshape(-1, last.kernel.shape[-1])
    last.kernel.assign(last.kernel * (4.0 / np.std(logits)))


def data(model: keras.Model, samples: int, seed: int) -> Array:
    """Normally distributed images, coarse and fine; in [0, 255] where the network begins with a scaling of its own."""
    shape = (samples, *model.inputs[0].shape[1:])
    random = np.random.default_rng(seed)
    # Noise in each pixel alone looks the same everywhere, and to a network each such image like the next.
    tiles = [-(-size // 4) for size in shape[1:3]]
    coarse = random.normal(size=(samples, 4, 4, shape[3])).repeat(tiles[0], 1).repeat(tiles[1], 2)
    fine = random.normal(size=shape)
    values = (0.8 * coarse[:, : shape[1], : shape[2]] + 0.6 * fine).astype(np.float32)
    scales = any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers)
    return np.clip(127.5 + 110.0 * values, 0.0, 255.0) if scales else values


def multiplications(model: keras.Model) -> int:
    """Multiplications of convolutions and dense layers for one sample, from the kernels and the output shapes."""
    total = 0
    for layer in model._flatten_layers():
        kernels = [v for v in layer._trainable_variables if len(v.shape) > 1]
        output = getattr(layer, "output", None) if layer._inbound_nodes else None
        if kernels and isinstance(output, keras.KerasTensor):
            weights = sum(math.prod(v.shape) for v in kernels)
            total += weights * math.prod(n or 1 for n in output.shape[1:-1])
    return total
