"""What tests of weight quantizers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc


@pytest.fixture
def prepare() -> Callable[..., tf.Tensor]:
    """`(quantizer, kernel, channel axes, promises before) -> weight`: the quantizer is built and initialized for it."""

    def prepared(
        quantizer: kc.WeightTransform, kernel: Any, axes: Sequence[int] = (-1,), made: Sequence[str] = ()
    ) -> tf.Tensor:
        weight = tf.constant(np.asarray(kernel, np.float32))
        quantizer.prepare(weight.shape, axes, made)
        quantizer.initialize(weight)
        return weight

    return prepared


@pytest.fixture
def gradients() -> Callable[..., list[np.ndarray]]:
    """`(quantizer, weight, upstream) -> gradients` of the weight, then of each trained variable."""

    def found(quantizer: kc.WeightTransform, weight: tf.Tensor, upstream: Any) -> list[np.ndarray]:
        with tf.GradientTape() as tape:
            tape.watch(weight)
            result = quantizer(weight)
        sources = [weight, *(variable.value for variable in quantizer.trainable_variables)]
        return [g.numpy() for g in tape.gradient(result, sources, tf.constant(upstream, tf.float32))]

    return found
