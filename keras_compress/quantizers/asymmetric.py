"""Uniform asymmetric weight quantization, for training and codebook storage."""

from __future__ import annotations

import functools
from typing import Any

from keras import ops

from keras_compress.core import affine
from keras_compress.core.kernels import Bound, Kernel
from keras_compress.core.registry import register
from keras_compress.quantizers.weight_quantizer import WeightQuantizer

Tensor = Any


@functools.cache
def _kernel(spec: affine.QuantSpec) -> Kernel:
    def forward(weight: Tensor) -> Tensor:
        axes = affine.reduction_axes(len(weight.shape), spec.axis)
        low, high = (end(weight, axis=axes, keepdims=True) for end in (ops.min, ops.max))
        return affine.fake_quantize(weight, *affine.affine_parameters(low, high, spec), spec)

    return Kernel(forward)


@register("weight_transform")
class AsymmetricQuantizer(WeightQuantizer):
    """Rounds the weight to evenly spaced levels between its lowest and highest value; 0 is one of the levels.

    **Forward** `low = min(w, 0)`, `high = max(w, 0)`, `s = (high - low) / (2^bits - 1)`,
    `z = clip(round(-2^(bits-1) - low / s), -2^(bits-1), 2^(bits-1) - 1)`,
    `y = s * (clip(round(w / s) + z, -2^(bits-1), 2^(bits-1) - 1) - z)`.
    **Gradient** `dy/dw = 1` (straight through): the range takes all weights in.

    **Levels** `2^bits` real numbers, evenly spaced: a codebook. One bit keeps 0 and the side that reaches further.

    Args:
        bits: 1 to 8.
        per_channel: A range for each output channel, or one for the tensor. After a clusterer the ranges follow its
            codebooks whatever this says.

    Raises:
        ValueError: For bits out of range.

    **Reference**: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference" (2018), equations 1, 12 and 13.
    """

    allowed_bits = tuple(range(1, 9))
    float_only = "TFLite's integer kernels take weights with zero point 0 only"

    def __init__(self, bits: int = 8, *, per_channel: bool = True, **kwargs: Any) -> None:
        super().__init__(bits, per_channel=per_channel, **kwargs)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"bits": 1, "per_channel": False}]

    @property
    def storage_bits(self) -> int | None:
        return None

    def kernel(self) -> Bound:
        spec = affine.QuantSpec(bits=self.bits, symmetric=False, narrow_range=False, axis=self.group_axes)
        return _kernel(spec), ()
