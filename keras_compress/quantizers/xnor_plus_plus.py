"""XNOR-Net++: scale factors of binary layers that are trained, not computed."""

from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_compress.core.registry import register
from keras_compress.core.ste import value_of
from keras_compress.quantizers.formulas import clipped_identity, sign
from keras_compress.quantizers.weight_quantizer import IntegerGrid
from keras_compress.quantizers.weight_scale import TrainedScaleQuantizer, sum_of_groups

Tensor = Any


@functools.cache
def _grid() -> IntegerGrid:
    def to_integers(weight: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        # A scale is above 0; where training has carried alpha below, the signs turn.
        return sign(weight) * tf.sign(alpha), tf.where(alpha == 0.0, tf.ones_like(alpha), tf.abs(alpha))

    def weight_gradient(upstream: Tensor, weight: Tensor, alpha: Tensor) -> Tensor:
        return upstream * alpha * clipped_identity(weight)

    def state_gradients(upstream: Tensor, weight: Tensor, alpha: Tensor) -> tuple[Tensor]:
        return (sum_of_groups(upstream * sign(weight), alpha),)

    return IntegerGrid(to_integers, weight_gradient, state_gradients, exact=True)


@register("weight_transform")
class XnorPlusPlus(TrainedScaleQuantizer):
    """The sign of the weight times a trained number for each output channel: XNOR-Net++'s first case.

    **Forward** `y = alpha sign(w)`, `sign(0) = 1`.
    **Gradient** `dy/dw = alpha` where `|w| <= 1`, else 0; `dL/dalpha` is the sum of `dL/dy sign(w)`.

    **Levels** -1 and 1, times `|alpha|`.

    It holds what XNOR-Net computes of weights and inputs, the scales of both, in one number that the loss decides. For
    the other cases, with factors for places, `XnorPlusPlusScale` stands behind a layer with `"ste_sign"` weights.

    Args:
        per_channel: An alpha for each output channel, or one for the tensor.

    **Reference**: Bulat and Tzimiropoulos, "XNOR-Net++: Improved Binary Neural Networks" (2019), case 1 of the
    scale factors; the gradient of the sign is that of Hubara et al. (2016), equation 4.
    **Deviations**: alpha begins as the mean of `|w|`, where XNOR-Net's is, the tensor's largest in a channel of zeros.
    """

    allowed_bits = (1,)
    preserves = frozenset({"codebook", "channel_codebook"})

    def __init__(self, *, per_channel: bool = True, name: str | None = None, trainable: bool = True) -> None:
        super().__init__(1, per_channel=per_channel, name=name, trainable=trainable)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"per_channel": False}]

    @property
    def storage_bits(self) -> int:
        """Signed integers of one bit have no +1."""
        return 2

    def first_value(self, weight: Tensor) -> Tensor:
        return ops.mean(ops.abs(weight), axis=self.reduced_axes, keepdims=True)

    def grid(self) -> tuple[IntegerGrid, tuple[Tensor, ...]]:
        return _grid(), (value_of(self.learned),)


# Case of the paper -> its factors, and the axes of an image (height, width, channel) along which each differs.
_CASES = {
    1: {"alpha": "c"},
    2: {"alpha": "hwc"},
    3: {"alpha": "c", "beta": "hw"},
    4: {"alpha": "c", "beta": "h", "gamma": "w"},
}


@register("layer")
class XnorPlusPlusScale(keras.layers.Layer):
    """Multiplies what a binary convolution gives by trained factors: the Gamma of XNOR-Net++.

    **Forward** `y = x * Gamma`. Case 1: `Gamma = alpha`, a number for each channel; 2: a number for each channel and
    place; 3: `alpha x beta`, beta a number for each place; 4: `alpha x beta x gamma`, for channel, row and column.
    **Gradient** the true one.

    In a file alpha of the cases 1, 3 and 4 goes into the convolution, exactly. What differs from place to place is one
    product with a constant of 8 bits, which the frozen model has too.

    Args:
        case: 1 to 4, as in the paper, whose best one is 4.

    Shapes: `(batch, height, width, channels)`, whose sizes are fixed but in case 1; the output is like it.

    Raises:
        ValueError: For another case, and for images whose size is not known.

    **Reference**: Bulat and Tzimiropoulos, "XNOR-Net++: Improved Binary Neural Networks" (2019), cases 1 to 4 of the
    scale factors.
    **Deviations**: all factors begin as 1.
    """

    def __init__(self, case: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if case not in _CASES or isinstance(case, bool):
            raise ValueError(f"Expected `case` from 1 to 4. Received: case={case!r}")
        self.case = case

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        """Constructor arguments of a few examples."""
        return [{}, *({"case": case} for case in (1, 2, 3))]

    def build(self, input_shape: Any) -> None:
        if len(input_shape) != 4 or (self.case > 1 and None in input_shape[1:]):
            raise ValueError(
                "Expected images (batch, height, width, channels) whose size is known, or `case=1`. "
                f"Received: shape {tuple(input_shape)} at {self.name!r}"
            )
        sizes = dict(zip("hwc", input_shape[1:], strict=True))
        self.factors = [
            self.add_weight(name=name, shape=[sizes[a] if a in axes else 1 for a in "hwc"], initializer="ones")
            for name, axes in _CASES[self.case].items()
        ]

    @property
    def factor_axes(self) -> list[list[int]]:
        """Of each factor the axes, 0 to 2 for height, width and channel, along which it differs."""
        return [["hwc".index(axis) for axis in axes] for axes in _CASES[self.case].values()]

    def get_compressible_weights(self) -> dict[str, tuple[int, ...]]:
        """None: factors are no matrix."""
        return {}

    def call(self, inputs: Tensor) -> Tensor:
        for factor in self.factors:
            inputs = inputs * ops.cast(factor, inputs.dtype)
        return inputs

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "case": self.case}
