"""AdaRound's variables: for each weight, how far between the two nearest integers it is, until it is one of them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

Tensor = Any
Array = NDArray[Any]
# The sigmoid is stretched beyond 0 and 1, so that it gets there.
ZETA, GAMMA = 1.1, -0.1


def rectified_sigmoid(values: Tensor) -> Tensor:
    """`h(V) = clip(sigmoid(V) (zeta - gamma) + gamma, 0, 1)`, zeta = 1.1, gamma = -0.1 (equation 23).

    >>> rectified_sigmoid(tf.constant([0.0, 3.0, -3.0])).numpy().round(4).tolist()
    [0.5, 1.0, 0.0]
    """
    return tf.clip_by_value(tf.sigmoid(values) * (ZETA - GAMMA) + GAMMA, 0.0, 1.0)


def inverse(shares: Array) -> Array:
    """`V` with `h(V) = shares`, for shares in [0, 1].

    >>> inverse(np.array([0.5, 0.7])).round(4).tolist()
    [-0.0, 0.6931]
    """
    found: Array = -np.log((ZETA - GAMMA) / (np.asarray(shares, np.float64) - GAMMA) - 1.0)
    return found


def regulariser(shares: Tensor, beta: Tensor) -> Tensor:
    """`sum over weights of 1 - |2 h - 1|^beta` (equation 24): 0 where all are 0 or 1.

    >>> float(regulariser(tf.constant([0.0, 1.0, 0.5, 0.75]), 2.0))
    1.75
    """
    return tf.reduce_sum(1.0 - tf.pow(tf.abs(2.0 * shares - 1.0), beta))


def annealed(progress: float, warm_up: float = 0.2, start: float = 20.0, end: float = 2.0) -> float:
    """beta after a share of the steps: `start` until the warm-up is over, then by half a cosine down to `end`.

    >>> [round(annealed(p), 2) for p in (0.0, 0.2, 0.6, 1.0)]
    [20.0, 20.0, 11.0, 2.0]
    """
    passed = max(0.0, (progress - warm_up) / (1.0 - warm_up))
    return end + 0.5 * (start - end) * (1.0 + float(np.cos(np.pi * min(passed, 1.0))))


class SoftRounding:
    """One weight between two integers each.

    Args:
        weight: float32 weight. Zeros stay zeros.
        step: Scale that broadcasts against it.
        ends: Lowest and highest integer.

    **Reference**: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization" (2020), section 3.2.
    """

    def __init__(self, weight: Array, step: Array, ends: tuple[int, int]) -> None:
        steps = weight / step
        self._floor = np.floor(steps).astype(np.float32)
        self._step, self._low, self._high = step.astype(np.float32), float(ends[0]), float(ends[1])
        self._kept = (weight != 0).astype(np.float32)
        self.variable = keras.Variable(inverse(steps - self._floor), dtype="float32", name="rounding")

    def shares(self) -> Tensor:
        """How far up each weight is rounded, from 0 to 1."""
        return rectified_sigmoid(tf.convert_to_tensor(self.variable.value))

    def weight(self) -> Tensor:
        """The soft weight, with the gradient of the variable."""
        return tf.clip_by_value(self._floor + self.shares(), self._low, self._high) * self._step * self._kept

    def integers(self) -> Array:
        """The integers that are nearest now."""
        up = self.shares().numpy() >= 0.5
        integers: Array = np.clip(self._floor + up, self._low, self._high) * self._kept
        return integers
