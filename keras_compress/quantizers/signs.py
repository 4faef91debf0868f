"""Binary weights without a scale: the sign, with three gradients for it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_compress.core.registry import register
from keras_compress.quantizers.formulas import approx_sign_slope, clipped_identity, sign, swish_sign_slope
from keras_compress.quantizers.weight_quantizer import IntegerGrid, WeightQuantizer

Tensor = Any


def _to_integers(weight: Tensor) -> tuple[Tensor, Tensor]:
    return sign(weight), tf.ones([1] * len(weight.shape))


@functools.cache
def grid_with_slope(slope: Callable[..., Tensor] | None, *parameters: float) -> IntegerGrid:
    """The integers +-1 at scale 1, with the gradient `upstream * slope(weight, *parameters)`; `None` for 1."""
    if slope is None:
        return IntegerGrid(_to_integers, exact=True)
    return IntegerGrid(_to_integers, lambda upstream, weight: upstream * slope(weight, *parameters), exact=True)


class SignQuantizer(WeightQuantizer):
    """What quantizers to +1 and -1 share. They have no zero level, so they cannot stand behind a pruner.

    Args:
        name: Name.
        trainable: Whether training moves its state.
    """

    allowed_bits = (1,)
    preserves = frozenset({"codebook", "channel_codebook"})

    def __init__(self, *, name: str | None = None, trainable: bool = True) -> None:
        super().__init__(1, per_channel=False, name=name, trainable=trainable)

    @property
    def group_axes(self) -> None:
        """One scale, 1."""
        return

    @property
    def storage_bits(self) -> int:
        """Signed integers of one bit have no +1."""
        return 2

    def get_config(self) -> dict[str, Any]:
        return {key: value for key, value in super().get_config().items() if key != "per_channel"}


@register("weight_transform")
class SteSign(SignQuantizer):
    """The sign of the weight, with the gradient of the hard tanh.

    **Forward** `y = +1` where `w >= 0`, else `-1`. **Gradient** `dy/dw = 1` where `|w| <= 1`, else 0.

    **Levels** +1 and -1, scale 1. Weights stay in reach of their gradient where the layer has `WeightClip(1.0)` as
    kernel constraint, as in the paper.

    Args:
        name: Name.
        trainable: Has nothing to train.

    **Reference**: Courbariaux et al., "Binarized Neural Networks" (2016), equations 1 and 4; deterministic
    BinaryConnect with the clipped gradient.
    """

    def grid(self) -> tuple[IntegerGrid, tuple[Tensor, ...]]:
        return grid_with_slope(clipped_identity), ()


@register("weight_transform")
class ApproxSign(SignQuantizer):
    """The sign of the weight, with the gradient of a piecewise quadratic curve close to it.

    **Forward** `y = +1` where `w >= 0`, else `-1`. **Gradient** `dy/dw = 2 - 2|w|` where `|w| <= 1`, else 0.

    **Levels** +1 and -1, scale 1.

    Args:
        name: Name.
        trainable: Has nothing to train.

    **Reference**: Liu et al., "Bi-Real Net" (2018), section 3.3, ApproxSign.
    **Deviations**: the paper uses it for activations, and for weights a magnitude-aware sign; here it is for weights.
    """

    def grid(self) -> tuple[IntegerGrid, tuple[Tensor, ...]]:
        return grid_with_slope(approx_sign_slope), ()


@register("weight_transform")
class SwishSign(SignQuantizer):
    """The sign of the weight, with the gradient of a swish-shaped curve close to it.

    **Forward** `y = +1` where `w >= 0`, else `-1`.
    **Gradient** `dy/dw = beta (2 - beta w tanh(beta w / 2)) / (1 + cosh(beta w))`; negative beyond its zeros, at
    `|w| = 2.4 / beta` or so.

    **Levels** +1 and -1, scale 1.

    Args:
        beta: Steepness, above 0.

    Raises:
        ValueError: If `beta` is not above 0.

    **Reference**: Darabi et al., "BNN+: Improved Binary Network Training" (2018), section 3.1, SS_beta.
    """

    def __init__(self, beta: float = 5.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not beta > 0.0:
            raise ValueError(f"Expected `beta` above 0. Received: beta={beta}")
        self.beta = float(beta)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"beta": 1.0}]

    def grid(self) -> tuple[IntegerGrid, tuple[Tensor, ...]]:
        return grid_with_slope(swish_sign_slope, self.beta), ()

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "beta": self.beta}
