"""Affine quantization: `real = scale * (integer - zero_point)`.

Training, freezing and converting round activations and evenly spaced weights by these functions, so they cannot
disagree; what the integers of a device's own arithmetic are (tables, biases, fixed point) is written where that is.
Every function takes tensors, NumPy arrays or symbolic Keras tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

Tensor = Any


@dataclass(frozen=True)
class QuantSpec:
    """The integers a tensor may take.

    Args:
        bits: Width of the integers, 1 to 32; 1 bit, without narrow range, is 0 and one other value.
        signed: `False` counts from 0.
        symmetric: The zero point is 0.
        narrow_range: Drop the lowest integer, so that a signed range is the same on both sides (TFLite's rule for
            weights).
        axis: Axes that have a scale of their own; `None` is one scale for the whole tensor.

    Raises:
        ValueError: For bits out of range, or an unsigned symmetric spec.

    >>> QuantSpec(bits=8).minimum, QuantSpec(bits=8).maximum
    (-127, 127)
    >>> QuantSpec(bits=4, symmetric=False, narrow_range=False).minimum
    -8
    """

    bits: int = 8
    signed: bool = True
    symmetric: bool = True
    narrow_range: bool = True
    axis: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or isinstance(self.bits, bool) or not 1 <= self.bits <= 32:
            raise ValueError(f"Expected `bits` to be an integer from 1 to 32. Received: bits={self.bits}")
        if self.bits == 1 and (self.symmetric or self.narrow_range):
            raise ValueError(
                "Expected `symmetric=False, narrow_range=False` where `bits=1`: one bit has no sign. "
                f"Received: symmetric={self.symmetric}, narrow_range={self.narrow_range}"
            )
        if self.symmetric and not self.signed:
            raise ValueError(
                "Expected `signed=True` where `symmetric=True`. "
                f"Received: signed={self.signed}, symmetric={self.symmetric}"
            )

    @property
    def minimum(self) -> int:
        """Lowest integer."""
        lowest = -(1 << (self.bits - 1)) if self.signed else 0
        return lowest + (1 if self.narrow_range else 0)

    @property
    def maximum(self) -> int:
        """Highest integer."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1


def quantize_to_int(values: Tensor, scale: Tensor, zero_point: Tensor, spec: QuantSpec) -> Tensor:
    """Nearest integer of the grid, ties to even, saturating at the ends. Float tensor that holds whole numbers.

    Of arrays and numbers NumPy makes an array: the same numbers, and sooner.
    """
    if isinstance(values, np.ndarray) and isinstance(scale, (float, np.floating, np.ndarray)):
        return np.clip(np.rint(values / scale) + zero_point, np.float32(spec.minimum), np.float32(spec.maximum))
    return ops.clip(ops.round(values / scale) + zero_point, float(spec.minimum), float(spec.maximum))


def round_half_away(values: Tensor) -> Tensor:
    """Nearest integer, ties away from zero, as TFLite's average pooling rounds a mean of integers.

    Such means come out of floating point a hair off: a tie is taken for one within 1e-4.

    >>> round_half_away(ops.array([-2.5, -0.49, 2.49999])).numpy().tolist()
    [-3.0, -0.0, 3.0]
    """
    return ops.sign(values) * ops.floor(ops.abs(values) + 0.5001)


def dequantize(integers: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """The real numbers that the integers stand for."""
    return (integers - zero_point) * scale


def fake_quantize(values: Tensor, scale: Tensor, zero_point: Tensor, spec: QuantSpec) -> Tensor:
    """Round to the grid and come back: what the device computes with, as real numbers."""
    return dequantize(quantize_to_int(values, scale, zero_point, spec), scale, zero_point)


def reduction_axes(rank: int, axis: Sequence[int] | None) -> tuple[int, ...]:
    """The axes that share one scale: all but `axis`.

    >>> reduction_axes(4, (3,))
    (0, 1, 2)
    """
    kept = {a % rank for a in axis} if axis is not None else set()
    return tuple(a for a in range(rank) if a not in kept)


def fill_zero_scales(scale: Tensor) -> Tensor:
    """Scales in which 0 became the largest of them, 1 where all are 0."""
    xp: Any = np if isinstance(scale, np.ndarray) else ops
    largest = xp.max(scale)
    fallback = xp.where(largest > 0, largest, xp.ones_like(largest))
    return xp.where(scale > 0, scale, fallback)


def symmetric_scale(weight: Tensor, spec: QuantSpec) -> Tensor:
    """Scale that puts the largest magnitude on the highest integer, per channel where `spec.axis` says so.

    A channel of zeros takes the largest scale of its tensor (1 where the whole tensor is zero): a scale is never 0, and
    the bias of a dead channel, which is stored in steps of input scale times weight scale, keeps its precision.

    Returns:
        Tensor, or NumPy's array of one, that broadcasts against `weight` (reduced axes have length 1).
    """
    axes = reduction_axes(len(weight.shape), spec.axis)
    xp: Any = np if isinstance(weight, np.ndarray) else ops
    # Times the reciprocal, as XLA divides by a constant: trained with and frozen are equal to the last bit.
    return fill_zero_scales(xp.max(xp.abs(weight), axis=axes, keepdims=True) * (1.0 / spec.maximum))


def affine_parameters(minimum: Tensor, maximum: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Scale and zero point of a range, widened so that 0.0 has an integer of its own.

    Args:
        minimum: Lower end of the range, scalar. Of NumPy's numbers or arrays, NumPy computes: the same, and sooner.
        maximum: Upper end of the range, likewise.
        spec: Target integers. For a symmetric spec the zero point is 0.

    Returns:
        `(scale, zero_point)`, float scalars; `zero_point` holds a whole number.
    """
    xp: Any = np if isinstance(minimum, (np.floating, np.ndarray)) else ops
    low = xp.minimum(minimum, 0.0)
    high = xp.maximum(maximum, 0.0)
    if spec.symmetric:
        scale = xp.maximum(-low, high) * (1.0 / spec.maximum)
        scale = xp.where(scale > 0, scale, xp.ones_like(scale))
        return scale, xp.zeros_like(scale)
    scale = (high - low) * (1.0 / (spec.maximum - spec.minimum))
    scale = xp.where(scale > 0, scale, xp.ones_like(scale))
    zero_point = xp.clip(xp.round(spec.minimum - low / scale), float(spec.minimum), float(spec.maximum))
    return scale, zero_point
