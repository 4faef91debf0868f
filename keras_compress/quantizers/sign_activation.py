"""Sign activations: one function, and the gradients that papers put in the place of its own; one with thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import NDArray

from keras_compress.core import affine
from keras_compress.core.registry import register
from keras_compress.core.ste import compiled, in_float32, value_of
from keras_compress.quantizers import formulas
from keras_compress.quantizers.activation import ActivationQuantizer, Surrogate

Tensor = Any


@compiled
def _sign_program(values: Tensor) -> Tensor:
    return formulas.sign(values)


class SignActivation(ActivationQuantizer):
    """`y = 1` for `x >= 0`, else -1; so sign(0) = 1. It takes the place of a ReLU.

    Subclasses implement `slope`. The integers are -1 and 1, the scale is 1 and the zero point 0.
    """

    allowed_bits = (1,)
    replaces_relu = True
    is_sign = True

    def __init__(self, *, name: str | None = None, trainable: bool = True) -> None:
        super().__init__(1, name=name, trainable=trainable)

    @property
    def spec(self) -> affine.QuantSpec:
        """Integer format: -1 to 1."""
        return affine.QuantSpec(bits=2)

    def parameters(self) -> tuple[Tensor, Tensor]:
        return ops.convert_to_tensor(1.0, "float32"), ops.convert_to_tensor(0.0, "float32")

    def slope(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Compiled `(values, upstream) -> gradient`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `slope()`.")

    def surrogate(self) -> Surrogate:
        passes = self.slope()
        return lambda values, upstream: (passes(values, upstream),), ()

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        return self.inferred(_sign_program if training else formulas.sign, inputs)

    def plain(self, inputs: Any) -> Any:
        return in_float32(formulas.sign, inputs)

    def unrounded(self, inputs: Any) -> Any:
        # Nothing is left of a sign without the rounding.
        return self.plain(inputs)

    def get_config(self) -> dict[str, Any]:
        return {key: value for key, value in super().get_config().items() if key != "bits"}


@compiled
def _clipped_slope(values: Tensor, upstream: Tensor) -> Tensor:
    return upstream * formulas.clipped_identity(values)


@compiled
def _triangular_slope(values: Tensor, upstream: Tensor) -> Tensor:
    return upstream * formulas.approx_sign_slope(values)


@compiled
def _swish_slope(values: Tensor, upstream: Tensor, beta: Tensor) -> Tensor:
    return upstream * formulas.swish_sign_slope(values, beta)


@register("activation_quantizer")
class SteSignActivation(SignActivation):
    """Sign with the clipped straight-through gradient of binarized networks.

    **Forward** `y = 1` for `x >= 0`, else -1. **Gradient** 1 for `|x| <= 1`, else 0. **Levels** -1, 1.

    **Reference**: Hubara et al., "Binarized Neural Networks" (2016), equations 1 and 4.
    """

    def slope(self) -> Callable[[Tensor, Tensor], Tensor]:
        found: Callable[[Tensor, Tensor], Tensor] = _clipped_slope
        return found


@register("activation_quantizer")
class ApproxSignActivation(SignActivation):
    """Sign with the gradient of a piecewise quadratic approximation.

    **Forward** `y = 1` for `x >= 0`, else -1. **Gradient** `2 - 2|x|` for `|x| <= 1`, else 0. **Levels** -1, 1.

    **Reference**: Liu et al., "Bi-Real Net" (2018), section 3.3.
    """

    def slope(self) -> Callable[[Tensor, Tensor], Tensor]:
        found: Callable[[Tensor, Tensor], Tensor] = _triangular_slope
        return found


@register("activation_quantizer")
class SwishSignActivation(SignActivation):
    """Sign with the gradient of the SignSwish function.

    **Forward** `y = 1` for `x >= 0`, else -1.
    **Gradient** `beta * (2 - beta * x * tanh(beta * x / 2)) / (1 + cosh(beta * x))`; a little negative far from 0.
    **Levels** -1, 1.

    Args:
        beta: Steepness, positive.

    Raises:
        ValueError: For a `beta` that is not positive.

    **Reference**: Darabi et al., "BNN+: Improved Binary Network Training" (2018), the derivative of SignSwish.
    """

    def __init__(self, beta: float = 5.0, **kwargs: Any) -> None:
        if not beta > 0:
            raise ValueError(f"Expected `beta` > 0. Received: beta={beta}")
        self.beta = float(beta)
        super().__init__(**kwargs)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{}, {"beta": 2.0}]

    def slope(self) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda values, upstream: _swish_slope(values, upstream, tf.constant(self.beta))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "beta": self.beta}


@compiled
def _shifted_slopes(values: Tensor, upstream: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    passed = upstream * formulas.approx_sign_slope(values - threshold)
    # One number shared by all, or one for each channel.
    axes = list(range(len(values.shape) - 1)) if threshold.shape[0] > 1 else None
    moved = -tf.reshape(tf.reduce_sum(passed, axis=axes), threshold.shape)
    # A batch whose gradient is not finite must not move it: it would never come back.
    return passed, tf.where(tf.math.is_finite(moved), moved, tf.zeros_like(moved))


@register("activation_quantizer")
class RSign(SignActivation):
    """ReActNet's sign, with a trained threshold for each channel.

    **Forward** `y = 1` for `x >= alpha`, else -1.
    **Gradient** `dy/dx = 2 - 2|x - alpha|` for `|x - alpha| <= 1`, else 0; `dy/dalpha` is minus that.
    **Levels** -1, 1.

    In a file the threshold costs nothing: it goes into the bias of the layer that makes the sums, or that takes their
    sign, whole sums on the side they are on. `kc_binary` takes the layer behind as it does those behind other signs.

    Args:
        channels: How many thresholds there are: the length of the last axis of what it is called on, which it finds
            itself; 1 for values without channels.

    Raises:
        ValueError: For `channels` below 1, and for values with another number of channels.

    **Reference**: Liu et al., "ReActNet: Towards Precise Binary Neural Network with Generalized Activation Functions"
    (2020), RSign; the gradient is that of Bi-Real Net (2018), section 3.3.
    **Deviations**: `x = alpha` counts as positive, as 0 does in the other signs here.
    """

    def __init__(self, channels: int | None = None, *, name: str | None = None, trainable: bool = True) -> None:
        if channels is not None and (not isinstance(channels, int) or isinstance(channels, bool) or channels < 1):
            raise ValueError(f"Expected `channels` to be an integer of 1 or more. Received: channels={channels!r}")
        self.channels = channels
        self.alpha: Any = None
        super().__init__(name=name, trainable=trainable)

    def create_variables(self) -> None:
        if self.channels is not None:
            self.alpha = self.add_weight(name="alpha", shape=(self.channels,), initializer="zeros", aggregation="mean")

    @property
    def prepared(self) -> bool:
        return self.channels is not None

    def prepare(self, shape: Sequence[int | None]) -> None:
        channels = shape[-1] if len(shape) > 1 else 1
        if self.channels is None:
            if channels is None:
                raise ValueError(f"Expected a known number of channels. Received: shape {tuple(shape)} at {self.name}")
            self.channels = int(channels)
            self.create_variables()
        if self.channels not in (1, channels):
            raise ValueError(
                f"Expected values with {self.channels} channels. Received: shape {tuple(shape)} at {self.name}"
            )

    def _threshold(self) -> Tensor:
        return tf.zeros(1) if self.alpha is None else value_of(self.alpha)

    def thresholds(self) -> NDArray[np.float64]:
        return np.array(self._threshold(), np.float64)

    def surrogate(self) -> Surrogate:
        return _shifted_slopes, (self._threshold(),)

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        self.prepare(inputs.shape)
        alpha = self._threshold()
        return self.inferred(lambda values: formulas.sign(values - alpha), inputs)

    def plain(self, inputs: Any) -> Any:
        alpha = np.array(self._threshold())
        return in_float32(lambda values: formulas.sign(values - alpha), inputs)

    def summary_values(self) -> dict[str, float]:
        alpha = self.thresholds()
        return {"lowest_alpha": float(alpha.min()), "highest_alpha": float(alpha.max())}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "channels": self.channels}
