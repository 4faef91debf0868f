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
from keras_compress.core.context import in_training

Tensor = Any


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a pure tensor function with XLA, so that a chain of element-wise operations is one pass over memory."""
    compiled_function: Callable[..., Any] = tf.function(function, jit_compile=True, autograph=False)
    # One program for each shape is what is wanted; TensorFlow would warn of "retracing" at the fifth.
    keras_private.without_tracing_warning(compiled_function)
    return compiled_function


def shared(signature: Sequence[tf.TensorSpec]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Trace a pure function once, and leave it one node wherever it is called while a model trains.

    Before a training begins, TensorFlow goes through every node of its graph a dozen times: some 0.8 ms for each. In
    inference the operations stand in line: TensorFlow Lite's converter has no place for such a node.

    >>> twice = shared([tf.TensorSpec([None])])(lambda values: values + values)
    >>> twice(tf.constant([1.0])).numpy().tolist()
    [2.0]
    """

    def made(function: Callable[..., Any]) -> Callable[..., Any]:
        kept: Callable[..., Any] = tf.function(
            function, autograph=False, input_signature=signature, experimental_attributes={"_noinline": True}
        )

        @functools.wraps(function)
        def apply(*arguments: Tensor) -> Any:
            return kept(*arguments) if in_training() else function(*arguments)

        return apply

    return made


def elementwise(tensors: int, scalars: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a pure function of flat float32 tensors of one size, element by element, and of scalars behind them.

    What it gives for tensors of any shape has their shape. It is traced once, and there is one program for each number
    of elements: in a network that is fewer than shapes, and each takes longer to compile than a hundred steps of it.

    >>> shifted = elementwise(1, 1)(lambda values, by: values + by)
    >>> shifted(tf.constant([[1.0, 2.0]]), tf.constant(0.5)).numpy().tolist()
    [[1.5, 2.5]]
    """
    signature = [tf.TensorSpec([None], tf.float32)] * tensors + [tf.TensorSpec([], tf.float32)] * scalars

    def made(function: Callable[..., Any]) -> Callable[..., Any]:
        program = tf.function(function, jit_compile=True, autograph=False, input_signature=signature)

        @functools.wraps(function)
        def apply(*arguments: Tensor) -> Tensor:
            shape = arguments[0].shape
            found = program(*(tf.reshape(each, [-1]) for each in arguments[:tensors]), *arguments[tensors:])
            return tf.reshape(found, shape if shape.is_fully_defined() else tf.shape(arguments[0]))

        return apply

    return made


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
def rounding(spec: affine.QuantSpec) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Compiled `values, scale, zero point -> values on the grid` for one integer format."""
    return elementwise(1, 2)(lambda values, scale, zero_point: affine.fake_quantize(values, scale, zero_point, spec))


@functools.cache
def _range_parameters(spec: affine.QuantSpec) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return compiled(lambda low, high: affine.affine_parameters(low, high, spec))


@elementwise(2, 2)
def _inside(values: Tensor, upstream: Tensor, low: Tensor, high: Tensor) -> Tensor:
    # The range with 0.0 in it is what the forward pass clips to.
    inside = (values >= tf.minimum(low, 0.0)) & (values <= tf.maximum(high, 0.0))
    return tf.where(inside, upstream, tf.zeros_like(upstream))


def gradient_inside(values: Tensor, low: Tensor, high: Tensor, upstream: Tensor) -> Tensor:
    """The upstream gradient where values are in the range, 0 elsewhere."""
    return _inside(values, upstream, low, high)


def _ends(values: Tensor, low: Tensor, high: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    ends = [
        tf.reduce_sum(tf.where(outside, upstream, tf.zeros_like(upstream)))
        for outside in (values < tf.minimum(low, 0.0), values > tf.maximum(high, 0.0))
    ]
    # A batch whose gradient is not finite must not move the ends: they would never come back.
    below, above = (tf.where(tf.math.is_finite(end), end, tf.zeros_like(end)) for end in ends)
    return below, above


_gradients_of_ends = compiled(_ends)


def gradients_of_range(values: Tensor, low: Tensor, high: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the values and of both ends of a range that is trained."""
    return gradient_inside(values, low, high, upstream), *_gradients_of_ends(values, low, high, upstream)


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

    @tf.custom_gradient
    def apply(x: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Callable[[Tensor], Any]]:
        def gradient(upstream: Tensor) -> Any:
            if learn_range:
                return tuple(gradients_of_range(x, lower, upper, upstream))
            return gradient_inside(x, lower, upper, upstream), None, None

        return rounding(spec)(x, *_range_parameters(spec)(lower, upper)), gradient

    return apply(values, tf.convert_to_tensor(low), tf.convert_to_tensor(high))


@shared([tf.TensorSpec([None], tf.float32)])
def _extremes(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # TensorFlow's own reductions are as fast as a program of XLA, and need none for each size. The sum is for NaN,
    # which XLA's minimum and maximum lose where the whole training step is compiled.
    lowest, highest = tf.reduce_min(values), tf.reduce_max(values)
    whole = tf.reduce_all(tf.math.is_finite(tf.stack([lowest, highest, tf.reduce_sum(values)])))

    def of_finite() -> tuple[Tensor, Tensor, Tensor]:
        # The sum of finite values may be infinite too.
        finite = tf.math.is_finite(values)
        of_all = tf.where(finite, values, np.inf), tf.where(finite, values, -np.inf)
        return tf.reduce_min(of_all[0]), tf.reduce_max(of_all[1]), tf.reduce_all(finite)

    found: tuple[Tensor, Tensor, Tensor] = tf.cond(whole, lambda: (lowest, highest, whole), of_finite)
    return found


def finite_extremes(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lowest and highest finite value (the one above the other where there is none), and whether all are finite."""
    # No gradient: in a training that runs eagerly TensorFlow makes that of all it calls.
    lowest, highest, whole = _extremes(tf.reshape(tf.stop_gradient(values), [-1]))
    return lowest, highest, whole


def in_float32(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Apply a function to float32 values, whatever the dtype of the inputs, which the outputs have too."""
    if keras.backend.standardize_dtype(inputs.dtype) == "float32":
        return function(inputs)
    return ops.cast(function(ops.cast(inputs, "float32")), inputs.dtype)


def value_of(variable: Any) -> Tensor:
    """The value of a Keras variable as a tensor, read now; float16 policies around the call do not touch it."""
    with keras_private.no_autocast():
        return tf.convert_to_tensor(variable.value)
