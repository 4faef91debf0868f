"""The moving averages of a range, as one program."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras import ops

from keras_compress.core import affine
from keras_compress.core.ste import compiled, finite_extremes, rounding

Tensor = Any


def corrected(average: Tensor, batches: Tensor, decay: float) -> Tensor:
    """A moving average from 0, without the bias of its start."""
    return average / (1.0 - ops.power(decay, ops.cast(ops.maximum(batches, 1), "float32")))


def count_on(before: Tensor, frozen: bool, some: Tensor = True) -> Tensor:
    """The number of batches that a range is made of, behind one with some finite values or with none."""
    return ops.where(some, ops.maximum(before, 1) if frozen else before + 1, before)


@functools.cache
def averaging_program(spec: affine.QuantSpec, decay: float, frozen: bool) -> Callable[..., Any]:
    """`values, minimum, maximum, batches before -> rounded, low, high, minimum, maximum, batches, whole`.

    Three programs: what is done to the numbers of a range is compiled once for all points, and only the passes over the
    values for each size of them.
    """

    def averages(
        lowest: Tensor, highest: Tensor, minimum: Tensor, maximum: Tensor, before: Tensor
    ) -> tuple[Tensor, ...]:
        stays = ((before > 0) & frozen) | (lowest > highest)
        minimum = tf.where(stays, minimum, decay * minimum + (1.0 - decay) * lowest)
        maximum = tf.where(stays, maximum, decay * maximum + (1.0 - decay) * highest)
        batches = count_on(before, frozen, lowest <= highest)
        low, high = corrected(minimum, batches, decay), corrected(maximum, batches, decay)
        return *affine.affine_parameters(low, high, spec), low, high, minimum, maximum, batches

    of_range = compiled(averages)

    def forward(values: Tensor, minimum: Tensor, maximum: Tensor, before: Tensor) -> tuple[Tensor, ...]:
        lowest, highest, whole = finite_extremes(values)
        scale, zero_point, *found = of_range(lowest, highest, minimum, maximum, before)
        return rounding(spec)(values, scale, zero_point), *found, whole

    return forward
