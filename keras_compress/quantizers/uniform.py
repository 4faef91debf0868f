"""Uniform symmetric weight quantization."""

from __future__ import annotations

import functools
from typing import Any

from keras_compress.core import affine
from keras_compress.core.registry import register
from keras_compress.quantizers.weight_quantizer import IntegerGrid, WeightQuantizer

Tensor = Any


@functools.cache
def _grid(spec: affine.QuantSpec) -> IntegerGrid:
    def to_integers(weight: Tensor) -> tuple[Tensor, Tensor]:
        scale = affine.symmetric_scale(weight, spec)
        return affine.quantize_to_int(weight, scale, 0.0, spec), scale

    return IntegerGrid(to_integers, exact=True, any_shape=True, of_arrays=True)


@register("weight_transform")
class UniformQuantizer(WeightQuantizer):
    """Rounds the weight to evenly spaced levels, zero point 0, the range the largest magnitude.

    **Forward** `s = max|w| / (2^(bits-1) - 1)`, `y = s * round(w / s)`. **Gradient** `dy/dw = 1` (straight through).

    **Levels** `-(2^(bits-1) - 1) .. 2^(bits-1) - 1`, evenly spaced.

    Args:
        bits: 2 to 8.
        per_channel: One scale for each output channel, or one for the tensor. After a clusterer the scale follows its
            codebooks whatever this says: one scale would tear a codebook apart that several share.

    Raises:
        ValueError: For bits out of range.

    **Reference**: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference" (2018), section 3; narrow range and zero point 0 as the TFLite specification asks for weights.
    """

    def __init__(self, bits: int = 8, *, per_channel: bool = True, **kwargs: Any) -> None:
        super().__init__(bits, per_channel=per_channel, **kwargs)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"bits": 3, "per_channel": False}]

    @property
    def spec(self) -> affine.QuantSpec:
        """Integer format of the weight this was built for."""
        return affine.QuantSpec(bits=self.bits, axis=self.group_axes)

    def grid(self) -> tuple[IntegerGrid, tuple[Tensor, ...]]:
        return _grid(self.spec), ()
