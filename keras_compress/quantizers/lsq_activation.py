"""LSQ for activations: a trained step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_compress.core import affine
from keras_compress.core.registry import register
from keras_compress.core.ste import compiled
from keras_compress.quantizers.formulas import lsq_first_step, lsq_gradient_factor, lsq_gradients
from keras_compress.quantizers.learned_scale import LearnedScale, scale_of

Tensor = Any


@functools.cache
def _first_step(highest: int) -> Callable[[Tensor], Tensor]:
    def first(values: Tensor) -> Tensor:
        return lsq_first_step(tf.reduce_mean(tf.abs(values)), highest)

    return compiled(first)


@functools.cache
def _backward(spec: affine.QuantSpec, zero_point: int) -> Callable[..., tuple[Tensor, Tensor]]:
    def gradients(values: Tensor, step: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
        of_values, of_each = lsq_gradients(upstream, values, scale_of(step, 1), spec, zero_point)
        factor = lsq_gradient_factor(_features(values), float(spec.maximum - zero_point))
        return of_values, tf.reduce_sum(of_each) * factor

    return compiled(gradients)


def _features(values: Tensor) -> Tensor:
    """Elements of one sample, float32."""
    return tf.cast(tf.size(values) / tf.maximum(tf.shape(values)[0], 1), "float32")


@register("activation_quantizer")
class LSQActivation(LearnedScale):
    """LSQ: multiples of a trained step `s`.

    **Forward** `y = round(clip(x / s, -Qn, Qp)) * s`; unsigned `Qn = 0`, `Qp = 2^bits - 1`, signed `Qn = 2^(bits-1)`,
    `Qp = 2^(bits-1) - 1`. The first training batch sets `s = 2 * mean|x| / sqrt(Qp)`.
    **Gradient** `dy/dx` is 1 for `-Qn < x/s < Qp`, else 0; `dy/ds` is `round(x/s) - x/s` there, `-Qn` below and `Qp`
    above, times `1 / sqrt(N * Qp)` with N the number of elements of one sample.

    The trained number is `s` over its first value, as in `LSQ`.

    **Levels** `-Qn * s .. Qp * s`, evenly spaced.

    Args:
        bits: 1 to 8; signed 2 to 8.
        signed: Take negative values. Behind ReLUs the unsigned form has twice as many levels.

    Raises:
        ValueError: For bits out of range.

    **Reference**: Esser et al., "Learned Step Size Quantization" (2020), equations 1-3, 5 and section 2.2.
    """

    learned_name = "step"
    relative = True

    def __init__(self, bits: int = 4, signed: bool = False, **kwargs: Any) -> None:
        if signed and bits == 1:
            raise ValueError(f"Expected `bits` from 2 to 8 where `signed=True`. Received: bits={bits}")
        self.signed = bool(signed)
        super().__init__(bits, **kwargs)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"bits": 3, "signed": True}]

    @property
    def non_negative(self) -> bool:  # type: ignore[override]
        """It takes values of 0 and more only."""
        return not self.signed

    @property
    def step(self) -> Tensor:
        """The step now."""
        return self.number()

    @property
    def zero_point(self) -> int:
        return 0 if self.signed else self.spec.minimum

    @property
    def highest(self) -> int:
        """Qp, the highest multiple of the step."""
        return self.spec.maximum - self.zero_point

    def first_value(self, values: Tensor) -> Tensor:
        return _first_step(self.highest)(values)

    def backward(self) -> Callable[..., tuple[Tensor, Tensor]]:
        return _backward(self.spec, self.zero_point)

    def set_range(self, low: float, high: float) -> None:
        lowest = self.spec.minimum - self.zero_point
        self.set_learned(max(high / self.highest, low / lowest if lowest else 0.0))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "signed": self.signed}
