"""`FrozenGrid`: a weight that has become what the device stores."""

from __future__ import annotations

from typing import Any

import keras
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
        # Tensors until somebody asks for variables: a frozen model has hundreds, which take far longer to make.
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

    @property
    def variables(self) -> list[keras.Variable]:
        """Integers and scale, as clones, `set_weights` and HDF5 files want them."""
        self._make_variables()
        found: list[keras.Variable] = super().variables
        return found

    @property
    def weights(self) -> list[keras.Variable]:
        """The same."""
        return self.variables

    def _make_variables(self) -> None:
        if self.integers is None or isinstance(self.integers, keras.Variable):
            return
        for name in ("integers", "scale"):
            held = getattr(self, name)
            made = self.add_weight(
                name=name,
                shape=held.shape,
                dtype=keras.backend.standardize_dtype(held.dtype),
                initializer=lambda shape, dtype, held=held: held,
                trainable=False,
            )
            setattr(self, name, made)

    def _hold(self, integers: Any, scale: Any) -> None:
        if isinstance(self.integers, keras.Variable):
            self.integers.assign(integers)
            self.scale.assign(scale)
            return
        self.integers = ops.convert_to_tensor(integers, "int8" if self.bits <= 8 else "int32")
        self.scale = ops.convert_to_tensor(scale, "float32")

    def save_own_variables(self, store: Any) -> None:
        """As Keras does with variables."""
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
        return dequantize(ops.cast(self.integers, "float32"), ops.convert_to_tensor(self.scale, "float32"), 0.0)

    def integer_weight(self, weight: Tensor = None) -> IntegerWeight:
        return IntegerWeight(
            integers=ops.convert_to_numpy(self.integers),
            scale=ops.convert_to_numpy(self.scale).astype(np.float32),
            bits=self.bits,
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bits": self.bits, "scale_shape": list(self.scale_shape)}
