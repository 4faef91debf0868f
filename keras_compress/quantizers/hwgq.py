"""Half-wave Gaussian quantization: the levels that suit a normalized, rectified activation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.core.registry import register
from keras_compress.core.ste import compiled
from keras_compress.quantizers.fixed_step import FixedStep

Tensor = Any


@functools.cache
def half_wave_step(bits: int) -> float:
    """The step whose multiples 1 to `2^bits - 1` have the least squared distance to the positive half of N(0, 1).

    >>> [round(half_wave_step(bits), 4) for bits in (1, 2, 3, 4)]
    [0.7979, 0.5388, 0.3217, 0.1842]
    """
    from scipy.optimize import minimize_scalar
    from scipy.stats import norm

    count = 2**bits - 1
    levels = np.arange(1, count + 1)
    edges = np.concatenate([[0.0], levels[:-1] + 0.5, [np.inf]])

    def error(step: float) -> float:
        # The integral of (x - level)^2 over each cell, less that of x^2, which no step changes.
        cumulative, density = norm.cdf(edges * step), norm.pdf(edges * step)
        squares = np.square(levels * step) * np.diff(cumulative)
        return float(np.sum(squares + 2.0 * levels * step * np.diff(density)))

    found = minimize_scalar(error, bounds=(0.5 / count, 6.0 / count), method="bounded", options={"xatol": 1e-10})
    # As far as the minimum can be told in floats: the same step with every version of SciPy.
    return float(f"{found.x:.6g}")


@compiled
def _passes(values: Tensor, highest: Tensor, upstream: Tensor) -> Tensor:
    return tf.where((values > 0.0) & (values <= highest), upstream, tf.zeros_like(upstream))


@register("activation_quantizer")
class HalfWaveGaussian(FixedStep):
    """HWGQ: the evenly spaced levels that are best for half of a standard normal distribution.

    **Forward** `y = clip(round(x / step), 0, 2^bits - 1) * step`, `step` the one with the least mean squared error for
    `x ~ N(0, 1)`, `x > 0`.
    **Gradient** that of the clipped ReLU: 1 for `0 < x <= (2^bits - 1) * step`, else 0.
    **Levels** `0, step, .., (2^bits - 1) * step`; two bits 0, 0.539, 1.078, 1.616.

    It takes for granted that its inputs are normalized: put a BatchNormalization in front of the ReLU, as the paper
    does in front of each quantizer.

    Args:
        bits: 1 to 8.

    Raises:
        ValueError: For bits out of range.

    **Reference**: Cai et al., "Deep Learning with Low Precision by Half-Wave Gaussian Quantization" (2017), sections
    4.2 and 4.3. Steps in use by its authors: 0.799, 0.538, 0.3217, 0.185 for 1 to 4 bits.
    **Deviations**: The paper gives every positive value one of the positive levels, and 0 to the others only. Integer
    kernels round to the nearest level, so values up to half a step become 0, as in the authors' later work on mixed
    precision (Cai and Vasconcelos, 2020); the step is the paper's.
    """

    def __init__(self, bits: int = 2, **kwargs: Any) -> None:
        super().__init__(bits, **kwargs)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"bits": 4}]

    @property
    def step(self) -> float:
        return half_wave_step(self.bits)

    def passes(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        found: Callable[[Tensor, Tensor, Tensor], Tensor] = _passes
        return found
