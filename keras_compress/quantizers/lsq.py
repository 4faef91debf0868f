"""LSQ: the step between levels is trained."""

from __future__ import annotations

import functools
import math
from typing import Any

from keras import ops

from keras_compress.core import affine
from keras_compress.core.registry import register
from keras_compress.core.ste import value_of
from keras_compress.quantizers.weight_quantizer import IntegerGrid
from keras_compress.quantizers.weight_scale import TrainedScaleQuantizer, group_size, positive, sum_of_groups

Tensor = Any


@functools.cache
def _grid(spec: affine.QuantSpec) -> IntegerGrid:
    low, high = float(spec.minimum), float(spec.maximum)

    def inside(steps: Tensor) -> Tensor:
        return ops.logical_and(steps > low, steps < high)

    def to_integers(weight: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        scale = positive(step)
        return affine.quantize_to_int(weight, scale, 0.0, spec), scale

    def weight_gradient(upstream: Tensor, weight: Tensor, step: Tensor) -> Tensor:
        return ops.where(inside(weight / positive(step)), upstream, ops.zeros_like(upstream))

    def state_gradients(upstream: Tensor, weight: Tensor, step: Tensor) -> tuple[Tensor]:
        steps = weight / positive(step)
        of_each = ops.where(inside(steps), ops.round(steps) - steps, ops.clip(steps, low, high))
        gradient_scale = 1.0 / math.sqrt(group_size(weight, step) * high)
        return (sum_of_groups(upstream * of_each, step) * gradient_scale,)

    return IntegerGrid(to_integers, weight_gradient, state_gradients)


@register("weight_transform")
class LSQ(TrainedScaleQuantizer):
    """Rounds the weight to evenly spaced levels with a trained step `s`.

    **Forward** `y = s * round(clip(w / s, -Qn, Qp))`, `Qn = 2^(bits-1)`, `Qp = 2^(bits-1) - 1`; `s` starts as
    `2 * mean|w| / sqrt(Qp)`.
    **Gradient** `dy/dw = 1` where `-Qn < w / s < Qp`, else 0; `dy/ds = g * (round(w / s) - w / s)` there, `-g * Qn`
    below and `g * Qp` above, `g = 1 / sqrt(N * Qp)` for the `N` weights that share `s`.

    **Levels** `-Qn .. Qp`, evenly spaced.

    Args:
        bits: 2 to 8.
        per_channel: A step for each output channel, or one for the tensor, as in the paper. After a clusterer the
            steps follow its codebooks whatever this says.

    Raises:
        ValueError: For bits out of range.

    **Reference**: Esser et al., "Learned Step Size Quantization" (2020), equations 1 to 5, sections 2.1 and 2.2.
    **Deviations**: with 8 bits `Qn = 127`, as TFLite has no weight of -128. Where training carries `s` under 1e-8, the
    forward pass computes with that. A channel of zeros starts with the largest step of its tensor.
    """

    learned_name = "step_size"

    def __init__(self, bits: int = 4, *, per_channel: bool = False, **kwargs: Any) -> None:
        super().__init__(bits, per_channel=per_channel, **kwargs)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"bits": 8, "per_channel": True}]

    @property
    def spec(self) -> affine.QuantSpec:
        """Integer format."""
        return affine.QuantSpec(bits=self.bits, narrow_range=self.bits == 8)

    def first_value(self, weight: Tensor) -> Tensor:
        mean = ops.mean(ops.abs(weight), axis=self.reduced_axes, keepdims=True)
        return 2.0 / math.sqrt(self.spec.maximum) * mean

    def grid(self) -> tuple[IntegerGrid, tuple[Tensor, ...]]:
        return _grid(self.spec), (value_of(self.learned),)
