"""ABC-Net: sums of binary weights, and of binary activations."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import NDArray

from keras_compress.core import affine
from keras_compress.core.kernels import Bound, Kernel
from keras_compress.core.registry import register
from keras_compress.core.ste import compiled, in_float32, value_of
from keras_compress.quantizers.activation import ActivationQuantizer, Surrogate
from keras_compress.quantizers.activation_grid import Staircase
from keras_compress.quantizers.formulas import sign
from keras_compress.quantizers.weight_quantizer import WeightQuantizer

Tensor = Any
MOST_BASES = 8


def check_bases(bases: Any) -> int:
    """A number of binary bases.

    Raises:
        ValueError: For another than 1 to 8.
    """
    if not isinstance(bases, int) or isinstance(bases, bool) or not 1 <= bases <= MOST_BASES:
        raise ValueError(f"Expected `bases` to be an integer from 1 to {MOST_BASES}. Received: bases={bases!r}")
    return bases


def shifts(bases: int) -> list[float]:
    """The paper's u_i, spread evenly over [-1, 1]; 0 for a single one.

    >>> shifts(5)
    [-1.0, -0.5, 0.0, 0.5, 1.0]
    """
    return [0.0] if bases == 1 else [-1.0 + 2.0 * i / (bases - 1) for i in range(bases)]


def _regions(weight: Tensor, bases: int, axes: tuple[int, ...]) -> list[Tensor]:
    """Where 0, 1, .. of the bases are +1: between two neighbours of the thresholds `mean - u_i std`."""
    mean = tf.reduce_mean(weight, axis=axes, keepdims=True)
    deviation = tf.sqrt(tf.reduce_mean(tf.square(weight - mean), axis=axes, keepdims=True))
    positive = [weight - mean + shift * deviation >= 0.0 for shift in reversed(shifts(bases))]
    beyond = [tf.ones_like(weight, tf.bool), *positive, tf.zeros_like(weight, tf.bool)]
    return [above & ~further for above, further in zip(beyond, beyond[1:], strict=False)]


def _levels(weight: Tensor, regions: list[Tensor], axes: tuple[int, ...]) -> list[Tensor]:
    """The weight in each region that least squares give, ascending.

    A weight's number of +1s decides all its signs, as each threshold is below the next. So bases and factors are M + 1
    levels, whose differences are twice the alphas; the outermost are minus and plus the sum of all alphas, the others
    are free. Of a level of its own the best is the mean; of the outer two it is one magnitude for both.
    """

    def total(values: Tensor) -> Tensor:
        return tf.reduce_sum(values, axis=axes, keepdims=True)

    zeros, ones = tf.zeros_like(weight), tf.ones_like(weight)
    sums = [total(tf.where(region, weight, zeros)) for region in regions]
    counts = [total(tf.where(region, ones, zeros)) for region in regions]
    inner = [s / tf.maximum(n, 1.0) for s, n in zip(sums[1:-1], counts[1:-1], strict=True)]
    outer = (sums[-1] - sums[0]) / tf.maximum(counts[-1] + counts[0], 1.0)
    return [-outer, *inner, outer]


@functools.cache
def _kernel(bases: int, axes: tuple[int, ...]) -> Kernel:
    def forward(weight: Tensor) -> Tensor:
        regions = _regions(weight, bases, axes)
        found = tf.zeros_like(weight)
        for region, level in zip(regions, _levels(weight, regions, axes), strict=True):
            found = tf.where(region, level, found)
        return found

    def weight_gradient(upstream: Tensor, weight: Tensor) -> Tensor:
        # The sum of the alphas.
        return upstream * _levels(weight, _regions(weight, bases, axes), axes)[-1]

    return Kernel(forward, weight_gradient)


@register("weight_transform")
class ABCNet(WeightQuantizer):
    """The sum of M binary weights, each with a factor, that is closest to the weight.

    **Forward** `y = alpha_1 B_1 + .. + alpha_M B_M`, `B_i = sign(w - mean(w) + u_i std(w))`, `sign(0) = 1`,
    `u_i = -1 + 2 (i - 1) / (M - 1)` (0 for M = 1); the alphas are those of least squared error.
    **Gradient** `dy/dw = alpha_1 + .. + alpha_M` (straight through each sign).

    **Levels** M + 1 real numbers, of which the outermost are each other's negative: all shifts are of one weight, so
    its signs are known by how many are +1. `quantize_model` puts the uniform 8-bit grid behind them.

    In a file it is one layer of 8-bit weights, not M binary ones: `kc_binary` takes it with one base only.

    Args:
        bases: M, 1 to 8.
        per_channel: Mean, deviation and alphas of their own for each output channel, or as the paper's algorithm has
            it one set for the tensor. After a clusterer they follow its codebooks whatever this says.

    Raises:
        ValueError: For `bases` out of range.

    **Reference**: Lin, Zhao and Pan, "Towards Accurate Binary Convolutional Neural Network" (2017), the
    approximation of weights by binary bases.
    **Deviations**: least squares are solved in closed form, by means over the regions between the thresholds: where
    two bases are equal the paper's equations leave their alphas open, which changes no weight. The u_i are not
    trained.
    """

    allowed_bits = (2,)
    preserves = frozenset({"codebook", "channel_codebook"})
    # Mean and deviation of the levels are others.
    idempotent = False

    def __init__(
        self, bases: int = 3, *, per_channel: bool = False, name: str | None = None, trainable: bool = True
    ) -> None:
        super().__init__(2, per_channel=per_channel, name=name, trainable=trainable)
        self.bases = check_bases(bases)
        self.bits = bases.bit_length()

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"bases": 5, "per_channel": True}]

    @property
    def storage_bits(self) -> None:
        """No integers: the levels are real numbers."""
        return

    @property
    def number_of_clusters(self) -> int:
        """One more than there are bases."""
        return self.bases + 1

    def kernel(self) -> Bound:
        return _kernel(self.bases, self.reduced_axes), ()

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bases": self.bases}


def _sum(values: Tensor, thresholds: list[Tensor], betas: list[Tensor], step: Tensor) -> Tensor:
    """The sum of signs, each times its beta, as a whole number of steps."""
    found = 0.0
    for threshold, beta in zip(thresholds, betas, strict=True):
        found = found + beta * sign(values - threshold)
    return ops.round(found / step)


@compiled
def _forward(values: Tensor, shift: Tensor, beta: Tensor, step: Tensor) -> Tensor:
    return _sum(values, tf.unstack(0.5 - shift), tf.unstack(beta), step) * step


@compiled
def _backward(values: Tensor, upstream: Tensor, shift: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    of_values, of_shift, of_beta = tf.zeros_like(values), [], []
    for v, b in zip(tf.unstack(shift), tf.unstack(beta), strict=True):
        inside = tf.where((values + v >= 0.0) & (values + v <= 1.0), upstream, tf.zeros_like(upstream))
        of_values += b * inside
        of_shift.append(b * tf.reduce_sum(inside))
        of_beta.append(tf.reduce_sum(upstream * sign(values + v - 0.5)))
    moved = (tf.stack(of_shift), tf.stack(of_beta))
    # A batch whose gradient is not finite must not move them: they would never come back.
    return of_values, *(tf.where(tf.math.is_finite(each), each, tf.zeros_like(each)) for each in moved)


@register("activation_quantizer")
class ABCNetActivation(ActivationQuantizer):
    """The sum of N signs, each with a trained threshold and a trained factor. It takes the place of a ReLU.

    **Forward** `y = beta_1 A_1 + .. + beta_N A_N`, `A_n = 1` where `clip(x + v_n, 0, 1) >= 0.5`, else -1; rounded to a
    whole number of 8-bit steps.
    **Gradient** `dy/dx` is the sum of the `beta_n` with `0 <= x + v_n <= 1`, and `dy/dv_n` is `beta_n` there, else 0;
    `dy/dbeta_n = A_n`.

    **Levels** N + 1, from minus to plus the sum of all betas: multiples of that over `N floor(127 / N)`.

    In a file it is a table that 8-bit integers are looked up in, whose range ends a little beyond the outermost
    thresholds: these move by half a 254th of their distance at the most. `kc_binary` does not take such inputs; one
    base alone is `"rsign"`.

    Args:
        bases: N, 1 to 8.

    Raises:
        ValueError: For `bases` out of range.

    **Reference**: Lin, Zhao and Pan, "Towards Accurate Binary Convolutional Neural Network" (2017), multiple
    binary activations.
    **Deviations**: it begins as the N + 1 evenly spaced levels from -1 to 1 nearest to x: `beta_n = 1 / N`, thresholds
    `0.5 - v_n = (2 n - N - 1) / N`. The sum is rounded, so that what trains is what is deployed.
    """

    allowed_bits = (8,)
    replaces_relu = True

    def __init__(self, bases: int = 3, *, name: str | None = None, trainable: bool = True) -> None:
        self._bases = check_bases(bases)
        super().__init__(8, name=name, trainable=trainable)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"bases": 2}]

    @property
    def bases(self) -> int:
        """How many signs it is a sum of."""
        return self._bases

    def create_variables(self) -> None:
        thresholds = [(2.0 * n - self._bases - 1.0) / self._bases for n in range(1, self._bases + 1)]
        self.shift = self.add_weight(name="shift", shape=(self._bases,), initializer="zeros", aggregation="mean")
        self.shift.assign([0.5 - threshold for threshold in thresholds])
        self.beta = self.add_weight(name="beta", shape=(self._bases,), initializer="ones", aggregation="mean")
        self.beta.assign([1.0 / self._bases] * self._bases)

    @property
    def spec(self) -> affine.QuantSpec:
        """Integer format: 8 bits, symmetric."""
        return affine.QuantSpec(bits=8)

    def parameters(self) -> tuple[Tensor, Tensor]:
        # Betas that are equal give whole numbers of steps.
        highest = self._bases * (127 // self._bases)
        step = ops.maximum(ops.sum(ops.abs(value_of(self.beta))), 1e-6) / float(highest)
        return step, ops.zeros_like(step)

    def surrogate(self) -> Surrogate:
        return _backward, (value_of(self.shift), value_of(self.beta))

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        shift, beta, step = value_of(self.shift), value_of(self.beta), self.parameters()[0]
        return self.inferred(lambda values: _forward(values, shift, beta, step), inputs)

    def thresholds(self) -> NDArray[np.float64]:
        return 0.5 - np.array(value_of(self.shift), np.float64)

    def staircase(self) -> Staircase:
        beta, step = np.array(value_of(self.beta)), np.float32(self.parameters()[0])
        thresholds = self.thresholds().astype(np.float32)
        order = np.argsort(thresholds, kind="stable")
        # One value in each interval: minus infinity, and each threshold.
        found = _sum(np.concatenate([[-np.inf], thresholds[order]]).astype(np.float32), [*thresholds], [*beta], step)
        return Staircase([float(t) for t in thresholds[order]], [int(q) for q in np.asarray(found)], float(step))

    def plain(self, inputs: Any) -> Any:
        return in_float32(self.staircase(), inputs)

    def unrounded(self, inputs: Any) -> Any:
        # Nothing is left of signs without the rounding.
        return self.plain(inputs)

    def summary_values(self) -> dict[str, float]:
        return {f"threshold_{n}": float(t) for n, t in enumerate(sorted(self.thresholds()), 1)}

    def get_config(self) -> dict[str, Any]:
        return {**{key: value for key, value in super().get_config().items() if key != "bits"}, "bases": self._bases}
