"""Term quantization: few powers of two for a group of weights together."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from keras_compress.core import affine
from keras_compress.core.registry import register
from keras_compress.quantizers.weight_quantizer import IntegerGrid, WeightQuantizer

Tensor = Any
SPEC = affine.QuantSpec(bits=8)
# 2^7 .. 2^0: canonical signed digits of 127 are 128 - 1.
DIGITS = 8
_ALL = (1 << DIGITS) - 1


def signed_digits(magnitudes: Tensor) -> tuple[Tensor, Tensor]:
    """Canonical signed digits (no two neighbours) of int32 values from 0 to 127, as two bit masks.

    Returns:
        `(added, subtracted)`: `magnitudes == added - subtracted`, and `added | subtracted` has the fewest bits.

    >>> [mask.numpy().tolist() for mask in signed_digits(ops.array([7, 21, 127]))]
    [[8, 21, 128], [1, 0, 1]]
    """
    half = tf.bitwise.right_shift(magnitudes, 1)
    sum_with_half = magnitudes + half
    signed = half ^ sum_with_half
    return sum_with_half & signed, half & signed


def largest_terms(digits: Tensor, terms: int) -> Tensor:
    """Bit masks of the digits to keep: the `terms` largest along axis 1, of equal ones the first.

    All digits above one exponent are kept, and of that exponent's the first ones: sorting is not needed.

    Args:
        digits: int32 tensor `(groups, members, channels)`, a bit for each digit that is not 0.
        terms: How many to keep in each group.
    """
    from_exponent = np.reshape([_ALL & (_ALL << exponent) for exponent in range(DIGITS)], (DIGITS, 1, 1, 1))
    above = tf.raw_ops.PopulationCount(x=digits & tf.constant(from_exponent, tf.int32))
    counts = ops.sum(ops.cast(above, "int32"), axis=2, keepdims=True)
    full = ops.sum(ops.cast(counts <= terms, "int32"), axis=0)
    spent = ops.max(ops.where(counts <= terms, counts, 0), axis=0)
    edge = tf.bitwise.right_shift(tf.constant(1 << (DIGITS - 1), tf.int32), full)
    position = ops.cumsum(ops.cast((digits & edge) != 0, "int32"), axis=1)
    kept = tf.bitwise.right_shift(tf.constant(_ALL << DIGITS, tf.int32), full)
    return kept | ops.where(position <= terms - spent, edge, 0)


@dataclass(frozen=True)
class _Groups:
    """How a weight lies as `(groups, members, channels)`: the inputs of a channel in row-major order, cut up.

    Attributes:
        shape: Shape of the weight.
        channel_axes: Its output-channel axes.
        size: Members of a group; zeros fill up the last one.
    """

    shape: tuple[int, ...]
    channel_axes: tuple[int, ...]
    size: int

    @property
    def _order(self) -> list[int]:
        return [*affine.reduction_axes(len(self.shape), self.channel_axes), *self.channel_axes]

    def cut(self, weight: Tensor) -> Tensor:
        """The weight in groups."""
        channels = math.prod(self.shape[axis] for axis in self.channel_axes)
        rows = ops.reshape(ops.transpose(weight, self._order), (-1, channels))
        rows = ops.pad(rows, ((0, -rows.shape[0] % self.size), (0, 0)))
        return ops.reshape(rows, (-1, self.size, channels))

    def join(self, groups: Tensor) -> Tensor:
        """The weight in its own shape again."""
        order = self._order
        channels = groups.shape[-1]
        rows = ops.reshape(groups, (-1, channels))[: math.prod(self.shape) // channels]
        moved = ops.reshape(rows, [self.shape[axis] for axis in order])
        return ops.transpose(moved, sorted(range(len(order)), key=order.__getitem__))


@functools.cache
def _grid(groups: _Groups, terms: int, axis: tuple[int, ...] | None) -> IntegerGrid:
    spec = affine.QuantSpec(bits=8, axis=axis)

    def to_integers(weight: Tensor) -> tuple[Tensor, Tensor]:
        scale = affine.symmetric_scale(weight, spec)
        integers = affine.quantize_to_int(weight, scale, 0.0, spec)
        added, subtracted = signed_digits(groups.cut(ops.cast(ops.abs(integers), "int32")))
        kept = largest_terms(added | subtracted, terms)
        magnitudes = ops.minimum((added & kept) - (subtracted & kept), spec.maximum)
        return ops.sign(integers) * ops.cast(groups.join(magnitudes), "float32"), scale

    return IntegerGrid(to_integers)


@register("weight_transform")
class TermQuantizer(WeightQuantizer):
    """Keeps, of the signed powers of two that 8-bit weights are sums of, the largest few in each group of weights.

    **Forward** `q = round(w / s)`, `s = max|w| / 127`, as `UniformQuantizer(8)`; each `q` as canonical signed digits
    (`23 = 32 - 8 - 1`); in each group of `group_size` consecutive inputs of an output channel (row-major order; the
    last group may be short) the `terms` largest terms stay, of equal ones those of the first weights;
    `y = s * clip(sum of what stays, -127, 127)`.
    **Gradient** `dy/dw = 1` (straight through).

    **Levels** integers from -127 to 127, sums of few powers of two.

    Args:
        terms: Terms that stay in each group, 1 or more: `terms / group_size` for a weight on average.
        group_size: Weights of a group, 1 or more.
        per_channel: One scale for each output channel, or one for the tensor; groups are within channels always.

    Raises:
        ValueError: For an argument that is not a positive integer.

    **Reference**: Kung, McDanel and Zhang, "Term Quantization: Furthering Quantization at Run Time" (2020).
    **Deviations**: a sum of 128, as 127 without its -1, saturates at 127. Weights only: the terms of activations are
    left alone.
    """

    allowed_bits = (8,)
    preserves = frozenset({"zeros"})
    # Not so where it drops the largest weight, from which the scale follows.
    idempotent = False

    def __init__(
        self,
        terms: int = 16,
        group_size: int = 8,
        *,
        per_channel: bool = True,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(8, per_channel=per_channel, name=name, trainable=trainable)
        for key, value in (("terms", terms), ("group_size", group_size)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"Expected `{key}` to be an integer of 1 or more. Received: {key}={value}")
        self.terms = terms
        self.group_size = group_size

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"terms": 3, "group_size": 4, "per_channel": False}]

    def grid(self) -> tuple[IntegerGrid, tuple[Tensor, ...]]:
        inputs = math.prod(self.weight_shape) // math.prod(self.weight_shape[axis] for axis in self.channel_axes)
        groups = _Groups(self.weight_shape, self.channel_axes, max(1, min(self.group_size, inputs)))
        return _grid(groups, self.terms, self.group_axes), ()

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "terms": self.terms, "group_size": self.group_size}
