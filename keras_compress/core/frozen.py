"""`FrozenGrid`: a weight that has become what the device stores."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from keras_compress.core.affine import dequantize
from keras_compress.core.registry import register
from keras_compress.core.ste import value_of
from keras_compress.core.transform import IntegerWeight, WeightTransform

Tensor = Any


@register("weight_transform")
class FrozenGrid(WeightTransform):
    """Constant integers and scale in place of the weight.

    **Forward** `y = scale * integers`, whatever the latent weight. **Gradient** none: a frozen model is not trained.

    Args:
        bits: Width that the integers fit in; 32 for a bias.
        scale_shape: Shape of the scale; it broadcasts against the weight.
    """

    promises = frozenset({"grid"})
    preserves = frozenset({"zeros", "codebook", "channel_codebook"})
    trains = False

    def __init__(self, bits: int, scale_shape: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bits = int(bits)
        self.scale_shape = [int(n) for n in scale_shape]
        # What the variables hold from the start; zeros and ones that a file's values replace without.
        self._first: IntegerWeight | None = None

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{"bits": 8, "scale_shape": (1, 1)}]

    @classmethod
    def of(cls, weight: IntegerWeight) -> FrozenGrid:
        """A grid that holds `weight`."""
        made = cls(weight.bits, weight.scale.shape)
        made._first = weight
        made.prepare(weight.integers.shape, ())
        made._first = None
        return made

    def create_variables(self) -> None:
        dtype = "int8" if self.bits <= 8 else "int32"
        held = self._first
        integers = "zeros" if held is None else lambda shape, dtype: ops.convert_to_tensor(held.integers, dtype)
        scale = "ones" if held is None else lambda shape, dtype: ops.convert_to_tensor(held.scale, dtype)
        self.integers = self.add_weight(
            name="integers", shape=self.weight_shape, dtype=dtype, initializer=integers, trainable=False
        )
        self.scale = self.add_weight(name="scale", shape=self.scale_shape, initializer=scale, trainable=False)

    def call(self, weight: Tensor, training: bool = False) -> Tensor:
        return dequantize(ops.cast(self.integers, "float32"), value_of(self.scale), 0.0)

    def integer_weight(self, weight: Tensor = None) -> IntegerWeight:
        return IntegerWeight(
            integers=ops.convert_to_numpy(self.integers),
            scale=ops.convert_to_numpy(self.scale).astype(np.float32),
            bits=self.bits,
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bits": self.bits, "scale_shape": list(self.scale_shape)}
