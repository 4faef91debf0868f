"""Uniform symmetric weight quantization."""

from __future__ import annotations

import functools
from typing import Any

from keras import ops

from keras_compress.core import affine
from keras_compress.core.kernels import Bound, Kernel
from keras_compress.core.registry import register
from keras_compress.core.transform import IntegerWeight, WeightTransform, integers_of

Tensor = Any


@functools.cache
def _kernel(spec: affine.QuantSpec) -> Kernel:
    return Kernel(lambda weight: affine.fake_quantize(weight, affine.symmetric_scale(weight, spec), 0.0, spec))


@register("weight_transform")
class UniformQuantizer(WeightTransform):
    """Rounds the weight to evenly spaced levels, zero point 0, the range the largest magnitude.

    **Forward** `s = max|w| / (2^(bits-1) - 1)`, `y = s * round(w / s)`. **Gradient** `dy/dw = 1` (straight through).

    Args:
        bits: 2 to 8.
        per_channel: One scale for each output channel, or one for the tensor. After a clusterer the scale follows its
            codebooks whatever this says: one scale would tear a codebook apart that several share.

    Raises:
        ValueError: For bits out of range.

    **Reference**: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference" (2018), section 3; narrow range and zero point 0 as the TFLite specification asks for weights.
    """

    promises = frozenset({"grid"})
    preserves = frozenset({"zeros", "codebook", "channel_codebook"})

    def __init__(self, bits: int = 8, *, per_channel: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(bits, int) or isinstance(bits, bool) or not 2 <= bits <= 8:
            raise ValueError(f"Expected `bits` to be an integer from 2 to 8. Received: bits={bits}")
        self.bits = bits
        self.per_channel = bool(per_channel)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"bits": 3, "per_channel": False}]

    @property
    def spec(self) -> affine.QuantSpec:
        """Integer format of the weight this was built for."""
        per_channel = "channel_codebook" in self.made or (self.per_channel and "codebook" not in self.made)
        return affine.QuantSpec(bits=self.bits, axis=self.channel_axes if per_channel else None)

    def kernel(self) -> Bound:
        return _kernel(self.spec), ()

    def integer_weight(self, weight: Tensor) -> IntegerWeight:
        weight = ops.convert_to_tensor(weight, "float32")
        return integers_of(weight, affine.symmetric_scale(weight, self.spec), self.spec)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bits": self.bits, "per_channel": self.per_channel}
