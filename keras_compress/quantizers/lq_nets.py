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


def _levels(basis: Tensor) -> tuple[list[Tensor], Tensor]:
    """The positive levels of a basis `[bits, *scales]`, ascending, and the code of each: `[levels, bits, *scales]`.

    The negative ones are their mirror image, code and all. Positions are counted, not sorted: that is a single pass
    over tensors the size of the table.
    """
    bits, rank = basis.shape[0], len(basis.shape) - 1
    signs = tf.constant([(1.0, *more) for more in itertools.product((-1.0, 1.0), repeat=bits - 1)])
    levels = tf.tensordot(signs, basis, 1)
    codes = tf.reshape(signs, [*signs.shape, *[1] * rank]) * tf.where(levels < 0.0, -1.0, 1.0)[:, tf.newaxis]
    levels = tf.abs(levels)
    count = signs.shape[0]
    earlier = tf.reshape(tf.constant(np.tri(count, k=-1, dtype=bool)), [count, count, *[1] * rank])
    before = (levels < levels[:, tf.newaxis]) | (earlier & (levels == levels[:, tf.newaxis]))
    position = tf.reduce_sum(tf.cast(before, tf.int32), axis=1)
    at = tf.cast(position == tf.reshape(tf.range(count), [count, *[1] * (rank + 1)]), tf.float32)
    return tf.unstack(tf.reduce_sum(at * levels, axis=1)), tf.reduce_sum(at[:, :, tf.newaxis] * codes, axis=1)


def _quantize(weight: Tensor, basis: Tensor) -> Tensor:
    levels, magnitude = _levels(basis)[0], tf.abs(weight)
    nearest = levels[0] * tf.ones_like(weight)
    for low, high in itertools.pairwise(levels):
        nearest = tf.where(magnitude > 0.5 * (low + high), high, nearest)
    return tf.where(weight < 0.0, -nearest, nearest)


_KERNEL = Kernel(_quantize)


@functools.cache
def best_basis(axes: tuple[int, ...]) -> Callable[[Tensor, Tensor], Tensor]:
    """Program `(weight, basis) -> basis`: the one of least squared error for the codes that the old one gives.

    Args:
        axes: Axes of the weight that share a basis.
    """

    def solve(weight: Tensor, basis: Tensor) -> Tensor:
        levels, table = _levels(basis)
        shares, means = _statistics(tf.abs(weight), levels, axes)
        codes, old = tf.unstack(table, axis=1), tf.unstack(basis)
        matrix = [[tf.reduce_sum(shares * a * b, axis=0) + RIDGE * (a is b) for b in codes] for a in codes]
        right = [tf.reduce_sum(means * a, axis=0) + RIDGE * v for a, v in zip(codes, old, strict=True)]
        return tf.stack(_solve(matrix, right))

    return compiled(solve)


def _statistics(magnitude: Tensor, levels: list[Tensor], axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """For each level, the share of the weights nearest to it, and the sum of their magnitudes over the number of all.

    What is nearest to a level is what lies beyond its lower threshold, without what lies beyond its upper one.
    """

    def differences(beyond: list[Tensor]) -> Tensor:
        found = [tf.reduce_mean(tensor, axis=axes, keepdims=True) for tensor in beyond]
        return tf.stack([a - b for a, b in itertools.pairwise([*found, tf.zeros_like(found[0])])])

    one, zero = tf.ones_like(magnitude), tf.zeros_like(magnitude)
    beyond = [magnitude > 0.5 * (low + high) for low, high in itertools.pairwise(levels)]
    shares = differences([one, *(tf.where(where, one, zero) for where in beyond)])
    return shares, differences([magnitude, *(tf.where(where, magnitude, zero) for where in beyond)])


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
        bits: K, 1 to 4. Each bit doubles the comparisons that a weight takes in every step, and training must not
            become slow; the paper's tables go to 4 as well.
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
