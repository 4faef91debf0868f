"""What papers say of weights and of activations alike, as pure functions: signs and their slopes, PACT, LSQ, DoReFa.

Quantizers of both kinds compute with these, so that a network whose weights and activations have one method has one
method.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf
from keras import ops

from keras_compress.core import affine

Tensor = Any


def sign(values: Tensor) -> Tensor:
    """+1 where a value is 0 or more, else -1, in float32; of Keras tensors too.

    >>> sign(tf.constant([-0.5, -0.0, 2.0])).numpy().tolist()
    [-1.0, 1.0, 1.0]
    """
    return ops.where(values >= 0.0, 1.0, -1.0)


def clipped_identity(values: Tensor) -> Tensor:
    """Gradient of the hard tanh: 1 between -1 and 1, the ends included, else 0. Hubara et al. (2016), equation 4."""
    return tf.cast(tf.abs(values) <= 1.0, values.dtype)


def approx_sign_slope(values: Tensor) -> Tensor:
    """Gradient of the piecewise quadratic approximation of the sign, a triangle. Liu et al. (2018), section 3.3."""
    return tf.maximum(2.0 - 2.0 * tf.abs(values), 0.0)


def swish_sign_slope(values: Tensor, beta: Any) -> Tensor:
    """Gradient of SS_beta, `b (2 - b x tanh(b x / 2)) / (1 + cosh(b x))`. Darabi et al. (2018), section 3.1.

    >>> swish_sign_slope(tf.constant([0.0, 100.0]), 5.0).numpy().tolist()
    [5.0, -0.0]
    """
    # With e = exp(-|z|), tanh(|z| / 2) = (1 - e) / (1 + e) and 1 + cosh(z) = (1 + e)^2 / 2e: nothing overflows, and
    # nothing is lost where the slope is small. exp(-104) is 0 in float32.
    magnitude = tf.minimum(tf.abs(beta * values), 104.0)
    decay = tf.exp(-magnitude)
    return beta * (2.0 - magnitude * (1.0 - decay) / (1.0 + decay)) * 2.0 * decay / tf.square(1.0 + decay)


def lsq_first_step(mean_magnitude: Tensor, highest: int) -> Tensor:
    """`2 mean|v| / sqrt(Qp)`. Esser et al. (2020), section 2.1."""
    return 2.0 / math.sqrt(highest) * mean_magnitude


def lsq_gradients(
    upstream: Tensor, values: Tensor, step: Tensor, spec: affine.QuantSpec, zero_point: int = 0
) -> tuple[Tensor, Tensor]:
    """Gradients of the values, and of the step for each value: to be summed, and scaled. Esser et al., equations 3, 5.

    Args:
        upstream: Gradient of `step * round(clip(values / step, -Qn, Qp))`.
        values: Weights or activations.
        step: The step, in a shape that broadcasts.
        spec: Integer format.
        zero_point: Integer of 0.0: `Qn` and `Qp` count from it.
    """
    lowest, highest = float(spec.minimum - zero_point), float(spec.maximum - zero_point)
    steps = values / step
    inside = tf.logical_and(steps > lowest, steps < highest)
    zeros = tf.zeros_like(upstream)
    integers = affine.quantize_to_int(values, step, float(zero_point), spec) - float(zero_point)
    return tf.where(inside, upstream, zeros), upstream * (integers - tf.where(inside, steps, zeros))


def lsq_gradient_factor(count: Any, highest: Any) -> Any:
    """`1 / sqrt(N Qp)`, which a step's gradient is multiplied by. Esser et al., section 2.2.

    Args:
        count: `N`: weights that share the step, or elements of one sample; a number or a tensor.
        highest: `Qp`.

    >>> lsq_gradient_factor(8, 2)
    0.25
    """
    shared = count * highest
    return tf.math.rsqrt(shared) if tf.is_tensor(shared) else 1.0 / math.sqrt(shared)


def pact_gradients(upstream: Tensor, values: Tensor, clip: Tensor, signed: bool) -> tuple[Tensor, Tensor]:
    """Gradients of the values, and of the clip for each value: to be summed. Choi et al. (2018), equations 1 to 3.

    Args:
        upstream: Gradient of the values clipped to `[0, clip]`, or to `[-clip, clip]`, and rounded.
        values: Weights or activations.
        clip: The clip, above 0, in a shape that broadcasts.
        signed: Whether the range has its mirror image below 0, as weights need it; the paper's has not.
    """
    zeros = tf.zeros_like(upstream)
    inside = (values > -clip if signed else values >= 0.0) & (values < clip)
    below = tf.where(values <= -clip, -upstream, zeros) if signed else zeros
    return tf.where(inside, upstream, zeros), tf.where(values >= clip, upstream, below)


def dorefa_intervals(bits: int) -> int:
    """`n` of `quantize_k(r) = round(n r) / n`: values in [0, 1] lie on its multiples of `1 / n`. Zhou et al. (2016).

    >>> dorefa_intervals(2)
    3
    """
    return int(2**bits - 1)
