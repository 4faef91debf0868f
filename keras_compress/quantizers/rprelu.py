"""ReActNet's PReLU with trained shifts."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_compress.core.registry import register

Tensor = Any


@register("layer")
class RPReLU(keras.layers.Layer):
    """A PReLU that is shifted, in front and behind, by trained numbers of each channel.

    **Forward** `y = x - gamma + zeta` where `x > gamma`, else `beta (x - gamma) + zeta`. **Gradient** the true one.

    In an int8 file it is two 1x1 depthwise convolutions and a MAXIMUM (MINIMUM where all slopes are above 1): each
    value is rounded once. Slopes on both sides of 1 take a sum in place of that.

    Args:
        slope: What all slopes beta begin as, finite. The shifts gamma and zeta begin as 0.

    Shapes: `(batch, ..., channels)`; the output is like it.

    Raises:
        ValueError: For a slope that is not finite, and where the number of channels is not known.

    **Reference**: Liu et al., "ReActNet: Towards Precise Binary Neural Network with Generalized Activation Functions"
    (2020), RPReLU.
    """

    def __init__(self, slope: float = 0.25, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not math.isfinite(slope):
            raise ValueError(f"Expected a finite `slope`. Received: slope={slope}")
        self.slope = float(slope)
        self.supports_masking = True

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        """Constructor arguments of a few examples."""
        return [{}, {"slope": 1.0}]

    def build(self, input_shape: Any) -> None:
        channels = input_shape[-1] if len(input_shape) > 1 else None
        if channels is None:
            raise ValueError(
                f"Expected a known number of channels. Received: shape {tuple(input_shape)} at {self.name!r}"
            )
        self.gamma = self.add_weight(name="gamma", shape=(channels,), initializer="zeros")
        self.beta = self.add_weight(name="beta", shape=(channels,), initializer=keras.initializers.Constant(self.slope))
        self.zeta = self.add_weight(name="zeta", shape=(channels,), initializer="zeros")

    def call(self, inputs: Tensor) -> Tensor:
        gamma, beta, zeta = (ops.cast(each, inputs.dtype) for each in (self.gamma, self.beta, self.zeta))
        shifted = inputs - gamma
        return ops.where(shifted > 0, shifted, beta * shifted) + zeta

    def lines(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """`(offset, slope, other offset)` of each channel: `x + offset` above gamma, `slope x + other offset` below."""
        gamma, beta, zeta = (np.array(each, np.float64) for each in (self.gamma, self.beta, self.zeta))
        return zeta - gamma, beta, zeta - beta * gamma

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "slope": self.slope}
