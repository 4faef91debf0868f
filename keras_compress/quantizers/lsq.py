"""LSQ: the step between levels is trained."""

from __future__ import annotations

import functools
from typing import Any

from keras import ops

from keras_compress.core import affine
from keras_compress.core.registry import register
from keras_compress.core.ste import value_of
from keras_compress.quantizers.formulas import lsq_first_step, lsq_gradient_factor, lsq_gradients
from keras_compress.quantizers.weight_quantizer import IntegerGrid
from keras_compress.quantizers.weight_scale import TrainedScaleQuantizer, group_size, positive, sum_of_groups

Tensor = Any


@functools.cache
def _grid(spec: affine.QuantSpec) -> IntegerGrid:
    def to_integers(weight: Tensor, relative: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        scale = positive(relative * first)
        return affine.quantize_to_int(weight, scale, 0.0, spec), scale

    def weight_gradient(upstream: Tensor, weight: Tensor, relative: Tensor, first: Tensor) -> Tensor:
        return lsq_gradients(upstream, weight, positive(relative * first), spec)[0]

    def state_gradients(upstream: Tensor, weight: Tensor, relative: Tensor, first: Tensor) -> tuple[Tensor, None]:
        of_each = lsq_gradients(upstream, weight, positive(relative * first), spec)[1]
        factor = lsq_gradient_factor(group_size(weight, first), spec.maximum)
        return sum_of_groups(of_each, first) * factor / first, None

    return IntegerGrid(to_integers, weight_gradient, state_gradients, exact=True)


@register("weight_transform")
class LSQ(TrainedScaleQuantizer):
    """Rounds the weight to evenly spaced levels with a trained step `s`.

    **Forward** `y = s * round(clip(w / s, -Qn, Qp))`, `Qn = 2^(bits-1)`, `Qp = 2^(bits-1) - 1`; `s` starts as
    `2 * mean|w| / sqrt(Qp)`.
    **Gradient** `dy/dw = 1` where `-Qn < w / s < Qp`, else 0; `dy/ds = g * (round(w / s) - w / s)` there, `-g * Qn`
    below and `g * Qp` above, `g = 1 / sqrt(N * Qp)` for the `N` weights that share `s`.

    The trained number is `s` over its first value `s0`, with the gradient of `s` divided by `s0`: SGD moves `s` as in
    the paper, and Adam, for which the size of a gradient does not count, moves it by a share of itself.

    **Levels** `-Qn .. Qp`, evenly spaced.

    Args:
        bits: 2 to 8.
        per_channel: A step for each output channel, or one for the tensor, as in the paper. After a clusterer the
            steps follow its codebooks whatever this says.

    Raises:
        ValueError: For bits out of range.

    **Reference**: Esser et al., "Learned Step Size Quantization" (2020), equations 1 to 5, sections 2.1 and 2.2.
    **Deviations**: the number that is trained, see above. With 8 bits `Qn = 127`, as TFLite has no weight of -128.
    Where training carries `s` under 1e-8, the forward pass computes with that. A channel of zeros starts with the
    largest step of its tensor.
    """

    learned_name = "relative_step"

    def __init__(self, bits: int = 4, *, per_channel: bool = False, **kwargs: Any) -> None:
        super().__init__(bits, per_channel=per_channel, **kwargs)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"bits": 8, "per_channel": True}]

    @property
    def spec(self) -> affine.QuantSpec:
        """Integer format."""
        return affine.QuantSpec(bits=self.bits, narrow_range=self.bits == 8)

    def create_variables(self) -> None:
        super().create_variables()
        self.first_step = self.add_weight(
            name="first_step", shape=tuple(self.scale_shape), initializer="ones", trainable=False, aggregation="mean"
        )

    def initialize(self, weight: Tensor) -> None:
        super().initialize(weight)
        self.set_step(self.learned)

    def set_step(self, step: Tensor) -> None:
        """Set the step exactly, in the shape of the scale; training goes on from there."""
        self.first_step.assign(step)
        self.learned.assign(ops.ones(self.scale_shape))

    @property
    def step(self) -> Tensor:
        """The step now, in the shape of the scale."""
        return value_of(self.learned) * value_of(self.first_step)

    def first_value(self, weight: Tensor) -> Tensor:
        mean = ops.mean(ops.abs(weight), axis=self.reduced_axes, keepdims=True)
        return lsq_first_step(mean, self.spec.maximum)

    def summary_values(self) -> dict[str, float]:
        step = ops.convert_to_numpy(self.step)
        return {"lowest_step": float(step.min()), "highest_step": float(step.max())}

    def grid(self) -> tuple[IntegerGrid, tuple[Tensor, ...]]:
        return _grid(self.spec), (value_of(self.learned), value_of(self.first_step))
