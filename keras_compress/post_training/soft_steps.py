"""Steps of activations that are learned while rounding is: one number for each point, with LSQ's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_compress.core import affine
from keras_compress.quantizers.activation import MovingAverageRange, QuantizeActivation
from keras_compress.quantizers.formulas import lsq_gradient_factor, lsq_gradients

Tensor = Any
# Points with as many bits have nothing to gain.
ENOUGH_BITS = 8
# A step never gets smaller than this share of the first one.
_SMALLEST = 0.01


class SoftStep:
    """The step of one point: both ends of its range move together, so that 0 keeps its integer.

    **Forward** `y = s (clip(round(x / s) + z, low, high) - z)`, `s = share * s0`; where a draw from [0, 1) is below
    `drop`, `y = x`.
    **Gradient** `dy/dx` is 1 inside the range, else 0; `dy/ds` is `round(x / s) - x / s` inside, `low - z` below and
    `high - z` above, times `1 / sqrt(N Qp)` with N elements of a sample; `dy/dshare` is that by `s0`. Of what was
    dropped they are 1 and 0.

    Args:
        quantizer: Of a point whose range is known.

    **Reference**: Esser et al., "Learned Step Size Quantization" (2020), equations 3 and 5, section 2.2, which BRECQ
    (Li et al., 2021) takes for activations; `drop`: Wei et al., "QDrop" (2022).
    """

    def __init__(self, quantizer: MovingAverageRange) -> None:
        self._quantizer = quantizer
        self._ends = tuple(float(end) for end in quantizer.range())
        scale, zero_point = quantizer.parameters()
        self._scale, self._zero_point = float(scale), float(zero_point)
        self.variable = keras.Variable(1.0, dtype="float32", name="step")

    def rounded(self, values: Tensor, drop: float = 0.0, seed: Tensor | None = None) -> Tensor:
        """Values on the grid as it is now, some of them as they were.

        Args:
            values: float32, samples first.
            drop: Share that is not rounded.
            seed: Two integers, for `drop`.
        """
        made = self._on_grid(values, self._share())
        if not drop:
            return made
        return tf.where(tf.random.stateless_uniform(tf.shape(values), seed) < drop, values, made)

    def settle(self) -> None:
        """Give the quantizer the range that was learned."""
        share = float(self._share())
        self._quantizer.set_range(*(share * end for end in self._ends))

    def _share(self) -> Tensor:
        return tf.maximum(tf.convert_to_tensor(self.variable.value), _SMALLEST)

    def _on_grid(self, values: Tensor, share: Tensor) -> Tensor:
        spec, zero_point, first = self._quantizer.spec, self._zero_point, self._scale
        highest = max(spec.maximum - zero_point, 1.0)

        @tf.custom_gradient
        def apply(x: Tensor, part: Tensor) -> tuple[Tensor, Any]:
            step = part * first

            def gradients(upstream: Tensor) -> tuple[Tensor, Tensor]:
                of_values, of_each = lsq_gradients(upstream, x, step, spec, int(zero_point))
                count = tf.cast(tf.size(x) / tf.maximum(tf.shape(x)[0], 1), tf.float32)
                return of_values, first * tf.reduce_sum(of_each) * lsq_gradient_factor(count, highest)

            return affine.fake_quantize(x, step, zero_point, spec), gradients

        made: Tensor = apply(values, share)
        return made


def soft_steps(unit: Sequence[Any], calls: Sequence[Any]) -> dict[int, SoftStep]:
    """`id` of a point -> its step, of the points of few bits among the calls of a unit.

    Args:
        unit: Calls that are learned together.
        calls: All of the model: what another unit has a part in keeps its range.
    """
    used = [id(node.operation.quantizer) for node in calls if isinstance(node.operation, QuantizeActivation)]
    points = [node.operation for node in unit if isinstance(node.operation, QuantizeActivation)]
    return {id(point): SoftStep(point.quantizer) for point in points if _learns(point.quantizer, used)}


def _learns(quantizer: Any, used: Sequence[int]) -> bool:
    few = isinstance(quantizer, MovingAverageRange) and quantizer.bits < ENOUGH_BITS
    return few and quantizer.trained() and used.count(id(quantizer)) == 1
