"""A trained clipping value for weights, as PACT has it for activations."""

from __future__ import annotations

import functools
from typing import Any

from keras_compress.core import affine
from keras_compress.core.registry import register
from keras_compress.core.ste import value_of
from keras_compress.quantizers.formulas import pact_gradients
from keras_compress.quantizers.weight_quantizer import IntegerGrid
from keras_compress.quantizers.weight_scale import TrainedScaleQuantizer, positive, sum_of_groups

Tensor = Any


@functools.cache
def _grid(spec: affine.QuantSpec) -> IntegerGrid:
    def to_integers(weight: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        scale = positive(alpha) * (1.0 / spec.maximum)
        return affine.quantize_to_int(weight, scale, 0.0, spec), scale

    def weight_gradient(upstream: Tensor, weight: Tensor, alpha: Tensor) -> Tensor:
        return pact_gradients(upstream, weight, positive(alpha), signed=True)[0]

    def state_gradients(upstream: Tensor, weight: Tensor, alpha: Tensor) -> tuple[Tensor]:
        return (sum_of_groups(pact_gradients(upstream, weight, positive(alpha), signed=True)[1], alpha),)

    return IntegerGrid(to_integers, weight_gradient, state_gradients, exact=True)


@register("weight_transform")
class LearnedClip(TrainedScaleQuantizer):
    """Clips the weight to a trained range `[-alpha, alpha]` and rounds it to evenly spaced levels there.

    **Forward** `s = alpha / (2^(bits-1) - 1)`, `y = s * round(clip(w, -alpha, alpha) / s)`; `alpha` starts as the
    smaller of `max|w|` and three times the root of the mean of `w^2`.
    **Gradient** `dy/dw = 1` where `|w| < alpha`, else 0; `dy/dalpha = sign(w)` where `|w| >= alpha`, else 0.

    **Levels** `-(2^(bits-1) - 1) .. 2^(bits-1) - 1`, evenly spaced.

    Args:
        bits: 2 to 8.
        per_channel: An `alpha` for each output channel, or one for the tensor. After a clusterer they follow its
            codebooks whatever this says.

    Raises:
        ValueError: For bits out of range.

    **Reference**: Choi et al., "PACT: Parameterized Clipping Activation for Quantized Neural Networks" (2018),
    equations 1 to 3, for activations.
    **Deviations**: weights, on both sides of 0. No L2 regulariser pulls on `alpha`. Where training carries `alpha`
    under 1e-8, the forward pass computes with that. A channel of zeros starts with the largest `alpha` of its tensor.
    """

    def __init__(self, bits: int = 4, *, per_channel: bool = False, **kwargs: Any) -> None:
        super().__init__(bits, per_channel=per_channel, **kwargs)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"bits": 2, "per_channel": True}]

    def grid(self) -> tuple[IntegerGrid, tuple[Tensor, ...]]:
        return _grid(affine.QuantSpec(bits=self.bits)), (value_of(self.learned),)
