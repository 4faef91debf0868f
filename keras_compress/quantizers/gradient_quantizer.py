"""Quantizers of gradients: the identity on the way forward."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_compress.core import affine
from keras_compress.core.context import assign, counter, first_time_in_call
from keras_compress.core.noise import uniform_noise
from keras_compress.core.registry import register
from keras_compress.core.ste import compiled, value_of

Tensor = Any


def to_levels(gradient: Tensor, largest: Tensor, noise: Tensor, bits: int) -> Tensor:
    """The integers, 0 to 2^bits - 1, of equation 12; tensors or NumPy arrays.

    Args:
        gradient: float32.
        largest: Largest magnitudes, >= 0, which broadcast with it.
        noise: From -1/2 to 1/2, of its shape.
        bits: k.
    """
    spec = _spec(bits)
    where: Any = np.where if isinstance(gradient, np.ndarray) else tf.where
    divisor = where(largest == 0.0, np.float32(1.0), 2.0 * largest)
    # quantize_k(r + noise / top) is round(top * r + noise) / top.
    return affine.quantize_to_int(float(spec.maximum) * (gradient / divisor + 0.5) + noise, 1.0, 0.0, spec)


def from_levels(levels: Tensor, largest: Tensor, bits: int) -> Tensor:
    """The values of integers that `to_levels` gave."""
    return 2.0 * largest * (levels / float(_spec(bits).maximum) - 0.5)


def _spec(bits: int) -> affine.QuantSpec:
    return affine.QuantSpec(bits=bits, signed=False, symmetric=False, narrow_range=False)


@functools.cache
def _rounding(bits: int) -> Callable[[Tensor, Tensor], Tensor]:
    def quantized(upstream: Tensor, noise: Tensor) -> Tensor:
        gradient = tf.cast(upstream, "float32")
        largest = tf.reduce_max(tf.abs(gradient), axis=list(range(1, gradient.shape.rank)), keepdims=True)
        return tf.cast(from_levels(to_levels(gradient, largest, noise, bits), largest, bits), upstream.dtype)

    return compiled(quantized)


@register("gradient_quantizer")
class DoReFaGradient(keras.layers.Layer):
    """Rounds the gradient that comes back through it, stochastically.

    **Forward** `y = x`.
    **Gradient** `f(g) = 2 m (quantize_k(g / (2m) + 1/2 + N(k)) - 1/2)`, `m` the largest `|g|` of the sample,
    `N(k) = u / (2^k - 1)`, `u ~ U(-1/2, 1/2)`, `quantize_k(r) = round((2^k - 1) r) / (2^k - 1)`. The mean is `g`.
    **Levels** `2^k` for each sample, from `-m` to `m`; 0 is none of them.

    In inference, and where it is not `trainable`, the gradient passes as it is. The noise depends on `seed` and the
    number of training batches seen alone, so that interrupted training goes on as if it had not been. Layers of the
    same seed draw the same numbers: give each its own where that matters.

    Args:
        bits: k, 1 to 8.
        seed: Integer from 0.

    Shapes: any, the first axis being the batch.

    Raises:
        ValueError: For arguments out of range.

    **Reference**: Zhou et al., "DoReFa-Net" (2016), equation 12.
    """

    def __init__(self, bits: int = 6, seed: int = 0, *, name: str | None = None, trainable: bool = True) -> None:
        super().__init__(name=name, trainable=trainable, dtype="float32", autocast=False)
        if not isinstance(bits, int) or isinstance(bits, bool) or not 1 <= bits <= 8:
            raise ValueError(f"Expected `bits` to be an integer from 1 to 8. Received: bits={bits}")
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ValueError(f"Expected `seed` to be an integer from 0. Received: seed={seed}")
        self.bits, self.seed = bits, seed
        self.supports_masking = True
        self.step = counter(self, "step")
        self.built = True

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        """Constructor arguments of a few examples."""
        return [{}, {"bits": 2, "seed": 1}]

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if not training or not self.trainable:
            return inputs
        step = value_of(self.step)
        seeds = tf.stack([tf.constant(self.seed, "int64"), step])
        if first_time_in_call(self):
            assign(self.step, step + 1)
        rounding = _rounding(self.bits)

        @tf.custom_gradient
        def apply(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
            return tf.identity(x), lambda upstream: rounding(upstream, uniform_noise(upstream, seeds))

        return apply(ops.convert_to_tensor(inputs))

    def compute_output_spec(self, inputs: Any, training: bool = False) -> Any:
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def plain_operations(self, inputs: Any) -> Any:
        """What is left of it in a model that is trained: nothing."""
        return inputs

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "trainable": self.trainable, "bits": self.bits, "seed": self.seed}
