"""`FrozenGrid`: a weight that has become what the device stores."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from keras_compress.core.affine import dequantize
from keras_compress.core.registry import register
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
        # Tensors: a frozen model has hundreds of them, and a variable takes far longer to make.
        self.integers: Tensor = None
        self.scale: Tensor = None

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{"bits": 8, "scale_shape": (1, 1)}]

    @classmethod
    def of(cls, weight: IntegerWeight) -> FrozenGrid:
        """A grid that holds `weight`."""
        made = cls(weight.bits, weight.scale.shape)
        made._hold(weight.integers, weight.scale)
        made.prepare(weight.integers.shape, ())
        return made

    def create_variables(self) -> None:
        if self.integers is None:
            # A file's values replace them.
            self._hold(np.zeros(self.weight_shape, np.int8), np.ones(self.scale_shape, np.float32))

    def _hold(self, integers: Any, scale: Any) -> None:
        self.integers = ops.convert_to_tensor(integers, "int8" if self.bits <= 8 else "int32")
        self.scale = ops.convert_to_tensor(scale, "float32")

    def copy_constants(self, source: WeightTransform) -> None:
        if isinstance(source, FrozenGrid):
            self._hold(source.integers, source.scale)

    def save_own_variables(self, store: Any) -> None:
        """As Keras does with variables."""
        super().save_own_variables(store)
        store["0"], store["1"] = map(ops.convert_to_numpy, (self.integers, self.scale))

    def load_own_variables(self, store: Any) -> None:
        """As Keras does with variables.

        Raises:
            ValueError: For others than those of this weight.
        """
        found = [store[key] for key in sorted(store.keys())]
        shapes = [list(each.shape) for each in found]
        if shapes != [list(self.weight_shape), self.scale_shape]:
            raise ValueError(
                f"Expected integers and scale of shapes {list(self.weight_shape)} and {self.scale_shape} for "
                f"{self.name!r}. Received: {shapes}"
            )
        self._hold(*map(np.asarray, found))

    def call(self, weight: Tensor, training: bool = False) -> Tensor:
        return dequantize(ops.cast(self.integers, "float32"), self.scale, 0.0)

    def integer_weight(self, weight: Tensor = None) -> IntegerWeight:
        return IntegerWeight(
            integers=ops.convert_to_numpy(self.integers),
            scale=ops.convert_to_numpy(self.scale).astype(np.float32),
            bits=self.bits,
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bits": self.bits, "scale_shape": list(self.scale_shape)}
