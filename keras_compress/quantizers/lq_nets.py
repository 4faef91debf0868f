"""LQ-Nets: levels that are sums and differences of a few learned numbers."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_compress.core.kernels import Bound, Kernel
from keras_compress.core.registry import register
from keras_compress.core.ste import compiled, value_of
from keras_compress.quantizers.weight_quantizer import WeightQuantizer

Tensor = Any

# Weight of the old basis in the normal equations: decides where the codes leave the new one open.
RIDGE = 1e-5
INITIAL_ITERATIONS = 20


def _codes(bits: int) -> Tensor:
    """All codes, one a row: `[2^bits, bits]` of -1 and +1."""
    return tf.constant(list(itertools.product((-1.0, 1.0), repeat=bits)))


def _levels(basis: Tensor) -> Tensor:
    """Levels for a basis `[bits, *scales]`: `[2^bits, *scales]`, in the order of the codes."""
    return tf.tensordot(_codes(basis.shape[0]), basis, 1)


def _quantize(weight: Tensor, basis: Tensor) -> Tensor:
    levels = tf.unstack(tf.sort(_levels(basis), axis=0))
    nearest = levels[0] * tf.ones_like(weight)
    for low, high in itertools.pairwise(levels):
        nearest = tf.where(weight > 0.5 * (low + high), high, nearest)
    return nearest


_KERNEL = Kernel(_quantize)


@functools.cache
def best_basis(axes: tuple[int, ...]) -> Callable[[Tensor, Tensor], Tensor]:
    """Program `(weight, basis) -> basis`: the one of least squared error for the codes that the old one gives.

    Args:
        axes: Axes of the weight that share a basis.
    """

    def solve(weight: Tensor, basis: Tensor) -> Tensor:
        bits, levels = basis.shape[0], _levels(basis)
        order = tf.argsort(levels, axis=0, stable=True)
        codes = tf.unstack(tf.gather(_codes(bits), order), axis=-1)
        shares, means = _statistics(weight, tf.unstack(tf.sort(levels, axis=0)), axes)
        matrix = [[tf.reduce_sum(shares * a * b, axis=0) + RIDGE * (a is b) for b in codes] for a in codes]
        right = [
            tf.reduce_sum(means * a, axis=0) + RIDGE * old for a, old in zip(codes, tf.unstack(basis), strict=True)
        ]
        return tf.stack(_solve(matrix, right))

    return compiled(solve)


def _statistics(weight: Tensor, levels: list[Tensor], axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """For each level, the share of the weights nearest to it, and their sum over the number of all weights."""
    one, zero = tf.ones_like(weight), tf.zeros_like(weight)
    above = [(one, weight)]
    for low, high in itertools.pairwise(levels):
        beyond = weight > 0.5 * (low + high)
        above.append((tf.where(beyond, one, zero), tf.where(beyond, weight, zero)))
    above.append((zero, zero))
    shares, means = ([tf.reduce_mean(t, axis=axes, keepdims=True) for t in pair] for pair in zip(*above, strict=True))
    return tuple(tf.stack([a - b for a, b in itertools.pairwise(found)]) for found in (shares, means))


def _solve(matrix: list[list[Tensor]], right: list[Tensor]) -> list[Tensor]:
    """Gauss's elimination, for all channels at once. A positive definite matrix needs no exchange of rows."""
    matrix, right, size = [list(row) for row in matrix], list(right), len(right)
    for i, j in itertools.combinations(range(size), 2):
        factor = matrix[j][i] / matrix[i][i]
        matrix[j] = [below - factor * above for below, above in zip(matrix[j], matrix[i], strict=True)]
        right[j] = right[j] - factor * right[i]
    for i in reversed(range(size)):
        known = sum(matrix[i][j] * right[j] for j in range(i + 1, size))
        right[i] = (right[i] - known) / matrix[i][i]
    return right


@register("weight_transform")
class LQNets(WeightQuantizer):
    """Rounds each weight to the nearest of the levels `+-v_1 +- ... +- v_K`, whose basis v follows the weights.

    **Forward** `y = v . b`, `b` in {-1, +1}^K the code of the nearest level. Each training step first moves the basis:
    `v = momentum v + (1 - momentum) v*`, where `v* = (B B^T)^-1 B w` makes the squared error smallest for the codes B
    that v gives. **Gradient** `dy/dw = 1` (straight through).

    **Levels** 2^K real numbers for each channel, none of them 0 as a rule. `quantize_model` puts the uniform 8-bit grid
    behind them.

    Args:
        bits: K, 1 to 4. Each bit doubles the comparisons that a weight takes in every step, and with 16 levels what the
            shape of the levels can gain over an even grid is nearly spent; the paper goes no further than 4 either.
        per_channel: One basis for each output channel, as in the paper, or one for the tensor.
        momentum: Share of the old basis that a step keeps, in [0, 1).

    Raises:
        ValueError: For `bits` or `momentum` out of range.

    **Reference**: Zhang et al., "LQ-Nets" (2018), equations 2 and 3, algorithm 1 (QEM).
    **Deviations**: the basis begins with evenly spaced levels and 20 QEM iterations on the weight. Where the codes
    leave v* open (a channel of zeros), a small share of the old basis in the equations decides. The step's own forward
    pass uses the basis just moved.
    """

    allowed_bits = (1, 2, 3, 4)
    preserves = frozenset({"codebook", "channel_codebook"})

    def __init__(self, bits: int = 2, *, per_channel: bool = True, momentum: float = 0.9, **kwargs: Any) -> None:
        super().__init__(bits, per_channel=per_channel, **kwargs)
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"Expected `momentum` in [0, 1). Received: momentum={momentum}")
        self.momentum = float(momentum)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"bits": 4, "per_channel": False, "momentum": 0.0}]

    @property
    def storage_bits(self) -> None:
        """No integers: the levels are real numbers."""
        return

    def create_variables(self) -> None:
        self.basis = self.add_weight(
            name="basis",
            shape=(self.bits, *self.scale_shape),
            initializer="ones",
            trainable=False,
            aggregation="only_first_replica",
        )

    def initialize(self, weight: Tensor) -> None:
        weight = ops.convert_to_tensor(weight, "float32")
        # Evenly spaced levels, the outermost where those of least error lie for a bell-shaped weight of so many levels.
        largest = (1.0 + 0.8 * (self.bits - 1)) * ops.mean(ops.abs(weight), axis=self.reduced_axes, keepdims=True)
        shares = np.float32(2.0) ** np.arange(self.bits, dtype=np.float32) / (2.0**self.bits - 1.0)
        basis = ops.stack([share * largest for share in shares])
        for _ in range(INITIAL_ITERATIONS):
            basis = best_basis(self.reduced_axes)(weight, basis)
        self.basis.assign(basis)

    def update(self, weight: Tensor) -> list[tuple[keras.Variable, Tensor]]:
        old = value_of(self.basis)
        return [(self.basis, old + (1.0 - self.momentum) * (best_basis(self.reduced_axes)(weight, old) - old))]

    def kernel(self) -> Bound:
        return _KERNEL, (value_of(self.basis),)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum}
