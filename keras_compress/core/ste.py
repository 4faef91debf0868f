"""Straight-through operations: a forward formula, and the gradient that training uses in place of the true one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_compress.core import affine, keras_private

Tensor = Any


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a pure tensor function with XLA, so that a chain of element-wise operations is one pass over memory."""
    compiled_function: Callable[..., Any] = tf.function(function, jit_compile=True, autograph=False)
    # One program for each shape is what is wanted; TensorFlow would warn of "retracing" at the fifth.
    keras_private.without_tracing_warning(compiled_function)
    return compiled_function


def straight_through(forward: Callable[..., Tensor], values: Tensor, *parameters: Tensor) -> Tensor:
    """`forward(values, *parameters)` whose gradient is the identity for `values` and zero for the parameters.

    **Forward** `y = forward(x)`. **Gradient** `dy/dx = 1`.

    >>> x = tf.constant([0.4, 1.6])
    >>> with tf.GradientTape() as tape:
    ...     tape.watch(x)
    ...     y = straight_through(tf.round, x)
    >>> y.numpy().tolist(), tape.gradient(y, x).numpy().tolist()
    ([0.0, 2.0], [1.0, 1.0])
    """

    @tf.custom_gradient
    def apply(inner: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        return forward(inner, *parameters), lambda upstream: upstream

    return apply(values)


def with_gradient(
    forward: Callable[[Tensor], Tensor], backward: Callable[..., Sequence[Tensor]], values: Tensor, *numbers: Tensor
) -> Tensor:
    """`forward(values)` with a gradient of its own.

    **Forward** `y = forward(x)`. **Gradient** `backward(x, dL/dy, *numbers)`: of the values, then of each number.

    Args:
        forward: Pure function of the values. It must not read variables that are trained.
        backward: Gradients of training.
        values: float32 tensor.
        numbers: Scalars that are trained and that `forward` has taken in already.

    >>> x = tf.constant([0.4, 1.6])
    >>> with tf.GradientTape() as tape:
    ...     tape.watch(x)
    ...     y = with_gradient(tf.round, lambda values, upstream: (2.0 * upstream,), x)
    >>> y.numpy().tolist(), tape.gradient(y, x).numpy().tolist()
    ([0.0, 2.0], [2.0, 2.0])
    """

    @tf.custom_gradient
    def apply(inner: Tensor, *inner_numbers: Tensor) -> tuple[Tensor, Callable[[Tensor], Any]]:
        def gradient(upstream: Tensor) -> Any:
            found = tuple(backward(inner, upstream, *inner_numbers))
            return found if inner_numbers else found[0]

        return forward(inner), gradient

    return apply(values, *numbers)


@functools.cache
def _range_kernel(spec: affine.QuantSpec) -> Callable[..., Tensor]:
    """Compiled forward pass of `fake_quantize_range` for one integer format."""

    def forward(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
        scale, zero_point = affine.affine_parameters(low, high, spec)
        return affine.fake_quantize(values, scale, zero_point, spec)

    return compiled(forward)


def _inside(values: Tensor, low: Tensor, high: Tensor, upstream: Tensor) -> Tensor:
    # The range with 0.0 in it is what the forward pass clips to.
    inside = (values >= tf.minimum(low, 0.0)) & (values <= tf.maximum(high, 0.0))
    return tf.where(inside, upstream, tf.zeros_like(upstream))


def _inside_and_ends(values: Tensor, low: Tensor, high: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    ends = [
        tf.reduce_sum(tf.where(outside, upstream, tf.zeros_like(upstream)))
        for outside in (values < tf.minimum(low, 0.0), values > tf.maximum(high, 0.0))
    ]
    # A batch whose gradient is not finite must not move the ends: they would never come back.
    below, above = (tf.where(tf.math.is_finite(end), end, tf.zeros_like(end)) for end in ends)
    return _inside(values, low, high, upstream), below, above


gradient_inside = compiled(_inside)
gradients_of_range = compiled(_inside_and_ends)


def fake_quantize_range(
    values: Tensor, low: Tensor, high: Tensor, spec: affine.QuantSpec, learn_range: bool = False
) -> Tensor:
    """Fake quantization between `low` and `high`.

    **Forward** `y = fake_quantize(x)` with the scale and zero point of the range.
    **Gradient** `dy/dx = 1` inside the range, 0 outside; with `learn_range`, `dy/dlow = 1` where `x < low` and
    `dy/dhigh = 1` where `x > high`.

    Args:
        values: float32 tensor of any shape.
        low: Scalar, lower end.
        high: Scalar, upper end.
        spec: Integer format of the result.
        learn_range: Give gradients to `low` and `high`.

    >>> x = tf.constant([-1.0, 0.2, 9.0])
    >>> spec = affine.QuantSpec(bits=2, symmetric=False, narrow_range=False)
    >>> fake_quantize_range(x, tf.constant(0.0), tf.constant(3.0), spec).numpy().tolist()
    [0.0, 0.0, 3.0]
    """
    forward = _range_kernel(spec)

    @tf.custom_gradient
    def apply(x: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Callable[[Tensor], Any]]:
        def gradient(upstream: Tensor) -> Any:
            if learn_range:
                return tuple(gradients_of_range(x, lower, upper, upstream))
            return gradient_inside(x, lower, upper, upstream), None, None

        return forward(x, lower, upper), gradient

    return apply(values, tf.convert_to_tensor(low), tf.convert_to_tensor(high))


def _extremes(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # Two passes where all is finite, as nearly always.
    unknown = tf.math.is_nan(values)
    lowest = tf.reduce_min(tf.where(unknown, -np.inf, values))
    highest = tf.reduce_max(tf.where(unknown, np.inf, values))
    whole = tf.math.is_finite(lowest) & tf.math.is_finite(highest)

    def of_finite() -> tuple[Tensor, Tensor]:
        finite = tf.math.is_finite(values)
        return tf.reduce_min(tf.where(finite, values, np.inf)), tf.reduce_max(tf.where(finite, values, -np.inf))

    found = tf.cond(whole, lambda: (lowest, highest), of_finite)
    # In a training that runs eagerly TensorFlow makes the gradient of all it calls, and XLA has none of a condition.
    return *map(tf.stop_gradient, found), whole


# Lowest and highest finite value (the one above the other where there is none), and whether all are finite.
finite_extremes = compiled(_extremes)


def in_float32(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Apply a function to float32 values, whatever the dtype of the inputs, which the outputs have too."""
    if keras.backend.standardize_dtype(inputs.dtype) == "float32":
        return function(inputs)
    return ops.cast(function(ops.cast(inputs, "float32")), inputs.dtype)


def value_of(variable: Any) -> Tensor:
    """The value of a Keras variable as a tensor, read now; float16 policies around the call do not touch it."""
    with keras_private.no_autocast():
        return tf.convert_to_tensor(variable.value)
