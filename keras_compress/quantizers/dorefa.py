"""DoReFa-Net's weights."""

from __future__ import annotations

import functools
from typing import Any

from keras import ops

from keras_compress.core.registry import register
from keras_compress.quantizers.formulas import dorefa_intervals, sign
from keras_compress.quantizers.weight_quantizer import IntegerGrid, WeightQuantizer

Tensor = Any


def _scaled_sign(weight: Tensor) -> tuple[Tensor, Tensor]:
    mean = ops.mean(ops.abs(weight), keepdims=True)
    # A weight of zeros only gets integers of 0 and scale 1: a scale is never 0.
    return ops.where(mean > 0, sign(weight), ops.zeros_like(weight)), ops.where(mean > 0, mean, ops.ones_like(mean))


def _largest(weight: Tensor) -> Tensor:
    # tanh grows with its argument, so one value of it is enough.
    largest = ops.tanh(ops.max(ops.abs(weight)))
    return ops.where(largest > 0, largest, ops.ones_like(largest))


@functools.cache
def _grid(bits: int) -> IntegerGrid:
    if bits == 1:
        return IntegerGrid(_scaled_sign)
    count = float(dorefa_intervals(bits))

    def to_integers(weight: Tensor) -> tuple[Tensor, Tensor]:
        between_0_and_1 = ops.tanh(weight) / (2.0 * _largest(weight)) + 0.5
        scale = ops.full([1] * len(weight.shape), 1.0 / count, dtype="float32")
        return 2.0 * ops.round(count * between_0_and_1) - count, scale

    def weight_gradient(upstream: Tensor, weight: Tensor) -> Tensor:
        return upstream * (1.0 - ops.square(ops.tanh(weight))) / _largest(weight)

    return IntegerGrid(to_integers, weight_gradient)


@register("weight_transform")
class DoReFa(WeightQuantizer):
    """Rounds `tanh` of the weight, brought into [-1, 1], to `2^bits` levels without a zero; one bit is a scaled sign.

    **Forward** `y = 2 * quantize_k(tanh(w) / (2 * max|tanh(w)|) + 1/2) - 1`, `quantize_k(x) = round(n * x) / n`,
    `n = 2^bits - 1`. With one bit `y = sign(w) * mean|w|`, `sign(0) = 1`. Maximum and mean are of the whole tensor.
    **Gradient** straight through `quantize_k`: `dy/dw = (1 - tanh(w)^2) / max|tanh(w)|`; with one bit `dy/dw = 1`.

    **Levels** `2 * i - n`, `i = 0 .. n`, times `1 / n`: odd integers, one bit wider than `bits`, so that 8 bits do not
    fit int8. With one bit -1 and 1, times the mean.

    Args:
        bits: 1 to 8.

    Raises:
        ValueError: For bits out of range.

    **Reference**: Zhou et al., "DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth
    Gradients" (2016), equations 5 and 7 to 9.
    **Deviations**: the maximum is a constant in the gradient. `round` takes ties to even, so that 0 becomes `1 / n`.
    With one bit a weight of zeros only stays zero.
    """

    allowed_bits = tuple(range(1, 9))
    preserves = frozenset({"codebook", "channel_codebook"})
    idempotent = False

    def __init__(self, bits: int = 2, *, name: str | None = None, trainable: bool = True) -> None:
        super().__init__(bits, per_channel=False, name=name, trainable=trainable)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"bits": 8}]

    @property
    def group_axes(self) -> tuple[int, ...] | None:
        """One scale, after a clusterer with a codebook for each channel too: equal weights stay equal."""
        return None

    @property
    def storage_bits(self) -> int:
        return self.bits + 1

    def grid(self) -> tuple[IntegerGrid, tuple[Tensor, ...]]:
        return _grid(self.bits), ()

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.pop("per_channel")
        return config
