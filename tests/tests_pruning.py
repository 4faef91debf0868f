"""A Dense layer with a given kernel and a pruner, and what its training sees: for tests with literal numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from keras import layers

import keras_compress as kc


def wrapped(kernel: Any, pruner: kc.WeightTransform) -> kc.Compressed:
    """The layer without bias, its pruner begun with the kernel."""
    values = np.asarray(kernel, np.float32)
    layer = layers.Dense(values.shape[1], use_bias=False)
    layer.build((None, values.shape[0]))
    layer.kernel.assign(values)
    wrapper = kc.Compressed(layer, {"kernel": [pruner]})
    wrapper.initialize(pruner)
    return wrapper


def train(wrapper: kc.Compressed, times: int = 1) -> None:
    """Training calls without a backward pass."""
    for _ in range(times):
        wrapper(np.zeros((1, wrapper.latent("kernel").shape[0]), np.float32), training=True)


def seen(wrapper: kc.Compressed, upstream: Any, variables: Any = (), training: bool = True) -> list[np.ndarray]:
    """The weight that one call sees, by an identity of inputs, and the gradients of `sum(upstream * weight)`.

    Gradients: of the latent weight, then of the variables. The losses that the call adds do not count.
    """
    rows = wrapper.latent("kernel").shape[0]
    with tf.GradientTape() as tape:
        weight = wrapper(np.eye(rows, dtype=np.float32), training=training)
        loss = tf.reduce_sum(weight * np.asarray(upstream, np.float32))
    sources = [wrapper.latent("kernel").value, *(v.value for v in variables)]
    return [np.array(weight), *(np.array(g) for g in tape.gradient(loss, sources))]


def penalty(wrapper: kc.Compressed, variables: Any) -> list[Any]:
    """What a training call adds to the loss, and its gradients."""
    with tf.GradientTape() as tape:
        wrapper(np.zeros((1, wrapper.latent("kernel").shape[0]), np.float32), training=True)
        loss = tf.add_n(wrapper.losses)
    found = tape.gradient(loss, [v.value for v in variables])
    return [float(loss), *(np.array(g) for g in found)]


def draws(pruner: Any, numbers: Any) -> None:
    """Let the pruner draw these numbers from (0, 1) in each step."""
    pruner.stream.uniform = lambda shape, step: tf.constant(numbers, tf.float32)
