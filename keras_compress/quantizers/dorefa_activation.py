"""DoReFa-Net's activations: between 0 and 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_compress.core.registry import register
from keras_compress.core.ste import compiled
from keras_compress.quantizers.fixed_step import FixedStep
from keras_compress.quantizers.formulas import dorefa_intervals

Tensor = Any


@compiled
def _passes(values: Tensor, highest: Tensor, upstream: Tensor) -> Tensor:
    return tf.where((values >= 0.0) & (values <= 1.0), upstream, tf.zeros_like(upstream))


@register("activation_quantizer")
class DoReFaActivation(FixedStep):
    """DoReFa: values clipped to [0, 1], evenly rounded.

    **Forward** `y = round((2^bits - 1) * r) / (2^bits - 1)`, `r = clip(x, 0, 1)`.
    **Gradient** 1 for `0 <= x <= 1`, else 0.
    **Levels** `0, 1 / (2^bits - 1), .., 1`.

    Values above 1 are cut: it suits models that learn, or are normalized, to stay there. A model trained with ReLUs
    that goes far beyond 1 loses less with `Pact` or `LSQActivation`.

    Args:
        bits: 1 to 8.

    Raises:
        ValueError: For bits out of range.

    **Reference**: Zhou et al., "DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth
    Gradients" (2016), equations 5, 6 and 11, with the bounded activation `min(1, max(0, x))`.
    """

    def __init__(self, bits: int = 2, **kwargs: Any) -> None:
        super().__init__(bits, **kwargs)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"bits": 8}]

    @property
    def step(self) -> float:
        return 1.0 / dorefa_intervals(self.bits)

    def passes(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        found: Callable[[Tensor, Tensor, Tensor], Tensor] = _passes
        return found
