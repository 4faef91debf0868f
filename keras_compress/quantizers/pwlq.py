"""Piecewise linear quantization: fine steps where a bell-shaped weight is dense, coarse ones in its tails."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import NDArray

from keras_compress.core import affine
from keras_compress.core.kernels import Bound, Kernel
from keras_compress.core.registry import register
from keras_compress.core.ste import value_of
from keras_compress.quantizers.weight_quantizer import WeightQuantizer

Tensor = Any
Array = NDArray[np.float64]

# Largest magnitudes, in standard deviations, for which breakpoints are computed; those between are interpolated.
_KNOTS = np.geomspace(1.0, 16.0, 33)


def share_of_steps(bits: int, regions: int) -> tuple[int, ...]:
    """Steps from one level to the next in each region of the positive side, of the `2^(bits-1) - 1` that there are.

    >>> share_of_steps(4, 2), share_of_steps(4, 3)
    ((4, 3), (3, 2, 2))
    """
    each, more = divmod(2 ** (bits - 1) - 1, regions)
    return tuple(each + (1 if region < more else 0) for region in range(regions))


def expected_error(breakpoints: Sequence[float], largest: float, steps: Sequence[int], overlapping: bool) -> float:
    """Expected squared error of a standard normal weight: `sum over regions of step^2 / 12 * probability`.

    Args:
        breakpoints: Ends of the regions, ascending, in standard deviations.
        largest: End of the last region, likewise.
        steps: Steps in each region.
        overlapping: Regions begin at 0, not at the breakpoint before them.

    >>> round(expected_error([1.0], 3.0, [4, 4], overlapping=False), 6)
    0.01011
    """
    ends = [0.0, *breakpoints, largest]
    within = [math.erf(end / math.sqrt(2.0)) for end in ends]
    total = 0.0
    for region, count in enumerate(steps):
        step = (ends[region + 1] - (0.0 if overlapping else ends[region])) / count
        total += (within[region + 1] - within[region]) * step**2 / 12.0
    return total


def gaussian_breakpoint(largest: Array) -> Array:
    """The paper's approximation of the best breakpoint of two regions without overlap, in standard deviations.

    >>> float(gaussian_breakpoint(np.array(4.0)).round(4))
    1.3996
    """
    return np.log(0.8614 * largest + 0.6079)


@functools.cache
def best_breakpoints(steps: tuple[int, ...], overlapping: bool) -> Array:
    """`[knots, breakpoints]`: breakpoints of least expected error, as shares of the largest magnitude."""
    from scipy.optimize import minimize

    def shares(free: Array) -> Array:
        # Any numbers to ascending shares in (0, 1): the minimum is found without constraints.
        parts = np.exp(free - free.max())
        optimum: Array = np.cumsum(parts / parts.sum())[:-1]
        return optimum

    def at(largest: float) -> Array:
        def error(free: Array) -> float:
            return expected_error(list(shares(np.append(free, 0.0)) * largest), largest, steps, overlapping)

        start = np.linspace(-1.0, 0.0, len(steps))[:-1]
        optimum = minimize(error, start, method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-12, "maxiter": 4000})
        return shares(np.append(optimum.x, 0.0))

    return np.stack([at(float(largest)) for largest in _KNOTS])


def breakpoints_of(largest: Array, bits: int, count: int, overlapping: bool) -> Array:
    """`[count, *shape of largest]`: breakpoints as shares of the largest magnitude, itself in standard deviations."""
    if count == 1 and not overlapping:
        return (gaussian_breakpoint(largest) / largest)[np.newaxis]
    table = best_breakpoints(share_of_steps(bits, count + 1), overlapping)
    return np.stack([np.interp(largest, _KNOTS, column) for column in table.T])


@functools.cache
def _kernel(steps: tuple[int, ...], overlapping: bool, axes: tuple[int, ...]) -> Kernel:
    def forward(weight: Tensor, shares: Tensor) -> Tensor:
        magnitude = tf.abs(weight)
        largest = affine.fill_zero_scales(tf.reduce_max(magnitude, axis=axes, keepdims=True))
        ends = [tf.zeros_like(largest), *tf.unstack(shares * largest), largest]
        rounded = tf.zeros_like(weight)
        for (low, high), count in zip(itertools.pairwise(ends), steps, strict=True):
            start = tf.zeros_like(low) if overlapping else low
            step = (high - start) * (1.0 / count)
            rounded = tf.where(magnitude > low, start + step * tf.round((magnitude - start) / step), rounded)
        return tf.sign(weight) * rounded

    return Kernel(forward)


@register("weight_transform")
class PWLQ(WeightQuantizer):
    """Rounds to evenly spaced levels, closer to each other near zero than in the tails.

    **Forward** breakpoints `0 < p_1 < .. < p_k < m`, `m = max|w|`, end regions of |w|; in the region from p to q,
    `y = sign(w) (p + s round((|w| - p) / s))`, `s = (q - p) / n`. The `2^(bits-1) - 1` positive levels are shared
    evenly, the inner regions take what is left over: n = 4, 3 for 4 bits and one breakpoint. With `overlapping`,
    `y = sign(w) s round(|w| / s)`, `s = q / n`. **Gradient** `dy/dw = 1` (straight through).

    **Levels** at most `2^bits - 1` real numbers, 0 among them. `quantize_model` puts the uniform 8-bit grid behind
    them.

    The breakpoints are set from the weight when the transform is added, as shares of m, for a normal distribution
    around 0 of the same mean square: for one, `p/sigma = ln(0.8614 m/sigma + 0.6079)`; for more, and with overlap,
    where the expected error `sum of s^2/12 P(region)` is smallest. m itself follows the weight.

    Args:
        bits: 3 to 8.
        breakpoints: 1, 2 or 3; 3 take 4 bits or more.
        overlapping: Regions whose grids all begin at 0, which saves hardware an offset. Levels of the outer ones that
            lie in an inner one are not used: with all codes counted, the error on normal weights is about that of one
            even grid of the same bits with 1 breakpoint, and above it with more.
        per_channel: Ranges and breakpoints for each output channel, or one set for the tensor.

    Raises:
        ValueError: For `bits` or `breakpoints` out of range.

    **Reference**: Fang et al., "Post-training Piecewise Linear Quantization for Deep Neural Networks" (2020),
    section 3.
    **Deviations**: `bits` counts everything: the paper's b-bit codes leave out which region a code belongs to, so its b
    is `bits - 1` here. A breakpoint is a level once. The paper shares levels evenly.
    """

    allowed_bits = tuple(range(3, 9))

    def __init__(
        self, bits: int = 4, *, breakpoints: int = 1, overlapping: bool = False, per_channel: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(bits, per_channel=per_channel, **kwargs)
        if breakpoints not in (1, 2, 3) or isinstance(breakpoints, bool):
            raise ValueError(f"Expected `breakpoints` to be 1, 2 or 3. Received: breakpoints={breakpoints}")
        if 0 in share_of_steps(bits, breakpoints + 1):
            raise ValueError(
                f"Expected `bits` of 4 or more for 3 breakpoints. Received: bits={bits}, breakpoints={breakpoints}"
            )
        self.breakpoints = int(breakpoints)
        self.overlapping = bool(overlapping)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"bits": 6, "breakpoints": 3, "overlapping": True, "per_channel": False}]

    @property
    def idempotent(self) -> bool:  # type: ignore[override]
        """An outer grid of overlapping ones may round to below its region."""
        return not self.overlapping

    @property
    def storage_bits(self) -> None:
        """No integers: the levels are real numbers."""
        return

    def create_variables(self) -> None:
        self.shares = self.add_weight(
            name="breakpoints", shape=(self.breakpoints, *self.scale_shape), initializer="zeros", trainable=False
        )
        self.shares.assign(self._even_shares())

    def _even_shares(self) -> NDArray[np.float32]:
        even = (np.arange(1, self.breakpoints + 1) / (self.breakpoints + 1)).astype(np.float32)
        return np.broadcast_to(even.reshape(-1, *[1] * len(self.scale_shape)), self.shares.shape)

    def is_as_created(self) -> bool:
        """Whether the breakpoints are still those that `create_variables` sets."""
        return bool((np.asarray(self.shares) == self._even_shares()).all())

    def initialize(self, weight: Tensor) -> None:
        values = ops.convert_to_numpy(weight).astype(np.float64)
        deviation = np.sqrt(np.mean(values**2, axis=self.reduced_axes, keepdims=True))
        largest = np.abs(values).max(axis=self.reduced_axes, keepdims=True)
        # A channel of zeros has no shape: it takes that of a usual one.
        ratio = np.divide(largest, deviation, out=np.full_like(largest, 3.0), where=deviation > 0)
        self.shares.assign(breakpoints_of(ratio, self.bits, self.breakpoints, self.overlapping))

    def kernel(self) -> Bound:
        steps = share_of_steps(self.bits, self.breakpoints + 1)
        return _kernel(steps, self.overlapping, self.reduced_axes), (value_of(self.shares),)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "breakpoints": self.breakpoints, "overlapping": self.overlapping}
