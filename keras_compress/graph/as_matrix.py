"""Layers as products of matrices: what each weight is multiplied with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

Array = NDArray[Any]
Tensor = Any
# Rows of inputs that are multiplied with each other at once.
_ROWS_BYTES = 128_000_000
# What methods that keep matrices of inputs take at the most by default.
MAX_BYTES = 8_000_000_000


@dataclass(frozen=True)
class AsMatrix:
    """A weighted sum as `[groups, rows, inputs] x [groups, inputs, outputs]`.

    Attributes:
        rows: From some samples of the layer's input to `[groups, rows, inputs]`.
        to_matrix: From the weight to `[groups, inputs, outputs]`.
        from_matrix: Back.
    """

    rows: Callable[[Tensor], Tensor]
    to_matrix: Callable[[Array], Array]
    from_matrix: Callable[[Array], Array]

    def in_parts(self, values: Tensor) -> Iterator[Tensor]:
        """`rows` of some samples after the other: patches of a convolution take many times the bytes of its input."""
        values = tf.cast(values, tf.float32)
        one = self.rows(values[:1])
        size = max(1, _ROWS_BYTES // (4 * max(1, math.prod(one.shape))))
        return (self.rows(values[start : start + size]) for start in range(0, len(values), size))

    def squares(self, values: Tensor) -> Array:
        """Sums of the squares of each input over all rows, `[groups, inputs]`, float64."""
        return np.asarray(
            sum(tf.reduce_sum(tf.square(tf.cast(r, tf.float64)), 1).numpy() for r in self.in_parts(values))
        )


def as_matrix(layer: keras.layers.Layer) -> AsMatrix | None:
    """The form of a layer, `None` where it has none here."""
    for cls in type(layer).__mro__:
        if cls.__module__.startswith("keras.") and cls.__name__ in _FORMS:
            return _FORMS[cls.__name__](layer)
    return None


def bytes_of_hessian(form: AsMatrix, weight: Array) -> int:
    """What finding H of a weight and its `inverse_factor` take at the most: six arrays of it in float64."""
    groups, inputs, _ = form.to_matrix(weight).shape
    return int(6 * 8 * groups * inputs * inputs)


def hessian(form: AsMatrix, values: Tensor) -> Array:
    """`2 X^T X` over all rows, `[groups, inputs, inputs]`, float64, divided by the number of rows."""
    total, count = products(form, values)
    return 2.0 * total / max(count, 1)


def products(form: AsMatrix, values: Tensor) -> tuple[Array, int]:
    """`X^T X` over all rows, `[groups, inputs, inputs]`, float64, and the number of rows."""
    total: Any = 0.0
    count = 0
    for rows in form.in_parts(values):
        # In place: an array may take gigabytes.
        total += tf.matmul(rows, rows, transpose_a=True).numpy().astype(np.float64)
        count += int(rows.shape[1])
    return np.asarray(total), count


def inverse_factor(second: Array, damping: float) -> Array:
    """Upper Cholesky factor of the inverse of H, damped; inputs that are always 0 stand for themselves.

    Args:
        second: H, `[groups, inputs, inputs]`.
        damping: Share of the mean of H's diagonal that is added to it.
    """
    second = second.astype(np.float64).copy()
    diagonal = np.einsum("gii->gi", second)
    mean = diagonal.mean(axis=1, keepdims=True)
    diagonal += np.where(mean > 0, damping * mean, 0.0)
    diagonal[diagonal <= 0] = 1.0
    inverse = np.linalg.inv(second)
    del second, diagonal
    # Symmetric to the last bit, as the factorization takes it for.
    inverse = inverse + np.swapaxes(inverse, 1, 2)
    inverse /= 2
    return np.swapaxes(np.linalg.cholesky(inverse), 1, 2)


def _dense(layer: keras.layers.Dense) -> AsMatrix:
    inputs = int(layer.kernel.shape[0])
    return AsMatrix(
        lambda values: tf.reshape(values, [1, -1, inputs]), lambda kernel: kernel[np.newaxis], lambda matrix: matrix[0]
    )


def _einsum(layer: keras.layers.EinsumDense) -> AsMatrix | None:
    """Weights that share no letter with both the input and the output: a plain product."""
    operands, result = layer.equation.replace(" ", "").replace("...", "").split("->")
    values, kernel = operands.split(",")
    summed = [letter for letter in kernel if letter not in result]
    free = [letter for letter in kernel if letter in result]
    if any(letter in values for letter in free) or any(letter not in values for letter in summed):
        return None
    order = [kernel.index(letter) for letter in (*summed, *free)]
    shape = [int(layer.kernel.shape[axis]) for axis in order]
    inputs = math.prod(shape[: len(summed)])
    ellipsis = "..." in layer.equation

    def rows(given: Tensor) -> Tensor:
        # An ellipsis stands for the axes in front.
        first = len(given.shape) - len(values) if ellipsis else 0
        axes = [first + values.index(letter) for letter in summed]
        others = [axis for axis in range(len(given.shape)) if axis not in axes]
        return tf.reshape(tf.transpose(given, [*others, *axes]), [1, -1, inputs])

    return AsMatrix(
        rows,
        lambda weight: weight.transpose(order).reshape(1, inputs, -1),
        lambda matrix: matrix.reshape(shape).transpose(np.argsort(order)),
    )


def _patches(layer: Any, values: Tensor, size: tuple[int, ...]) -> Tensor:
    """`[samples, positions, places of the kernel, channels]`."""
    if layer.data_format == "channels_first":
        # Patches of this order are made on a GPU only.
        values = tf.transpose(values, [0, *range(2, len(values.shape)), 1])
    if layer.rank == 1:
        values, strides, rates = values[:, :, tf.newaxis], (layer.strides[0], 1), (layer.dilation_rate[0], 1)
    else:
        strides, rates = layer.strides, layer.dilation_rate
    padding = layer.padding
    if padding == "causal":
        values = tf.pad(values, [[0, 0], [rates[0] * (size[0] - 1), 0], [0, 0], [0, 0]])
        padding = "valid"
    channels = int(values.shape[-1])
    found = tf.image.extract_patches(values, [1, *size, 1], [1, *strides, 1], [1, *rates, 1], padding.upper())
    return tf.reshape(found, [tf.shape(values)[0], -1, math.prod(size), channels])


def _size(layer: Any) -> tuple[int, ...]:
    size = tuple(int(n) for n in layer.kernel_size)
    return (*size, 1) if layer.rank == 1 else size


def _conv(layer: Any) -> AsMatrix | None:
    if layer.rank > 2:
        return None
    size, groups = _size(layer), int(layer.groups)
    places, outputs = math.prod(size), int(layer.filters)
    shape = tuple(int(n) for n in layer.kernel.shape)
    each = shape[-2]

    def rows(values: Tensor) -> Tensor:
        found = _patches(layer, values, size)
        found = tf.reshape(found, [-1, places, groups, each])
        return tf.reshape(tf.transpose(found, [2, 0, 1, 3]), [groups, -1, places * each])

    def to_matrix(kernel: Array) -> Array:
        matrix: Array = kernel.reshape(places * each, groups, outputs // groups).transpose(1, 0, 2)
        return matrix

    return AsMatrix(rows, to_matrix, lambda matrix: matrix.transpose(1, 0, 2).reshape(shape))


def _depthwise(layer: Any) -> AsMatrix:
    """Each channel is a group of its own."""
    size = _size(layer)
    places, shape = math.prod(size), tuple(int(n) for n in layer.kernel.shape)

    def rows(values: Tensor) -> Tensor:
        found = tf.reshape(_patches(layer, values, size), [-1, places, shape[-2]])
        return tf.transpose(found, [2, 0, 1])

    return AsMatrix(
        rows,
        lambda kernel: kernel.reshape(places, shape[-2], shape[-1]).transpose(1, 0, 2),
        lambda matrix: matrix.transpose(1, 0, 2).reshape(shape),
    )


_FORMS: dict[str, Callable[[Any], AsMatrix | None]] = {
    "Dense": _dense,
    "EinsumDense": _einsum,
    "Conv1D": _conv,
    "Conv2D": _conv,
    "DepthwiseConv1D": _depthwise,
    "DepthwiseConv2D": _depthwise,
}
