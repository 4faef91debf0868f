"""XNOR-Net's scale of the inputs."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_compress.core.context import assign, counter, first_time_in_call
from keras_compress.core.registry import register
from keras_compress.core.ste import value_of

Tensor = Any


@register("layer")
class XnorScale(keras.layers.Layer):
    """Multiplies what a binary convolution makes of `sign(x)` by the magnitude `K` of `x` under its window.

    **Forward** `y * K`, `K = A * k`: `A` is the mean of `|x|` over the channels, `k` a window of `1 / (w * h)`, and
    `*` between them a convolution with the strides and padding of the binary one. **Gradient** the true one, for `y`
    and `x`.

    With `constant`, `K` is one number instead, the moving average of its mean over training batches, as most work
    after the paper has it: only that has integers (it folds into the convolution).

    Args:
        kernel_size: Window of the convolution, a number or `(height, width)`.
        strides: Likewise.
        padding: `"valid"` or `"same"`.
        constant: Use the average of `K`.
        momentum: Weight of the past in that average, in (0, 1).

    Shapes: `[(batch, height', width', filters), (batch, height, width, channels)]`; the output is like the first.

    Raises:
        ValueError: For `momentum` or `padding` out of range.

    **Reference**: Rastegari et al., "XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks"
    (2016), section 3.2, equations 10 and 11.
    **Deviations**: `constant`.
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: str = "valid",
        *,
        constant: bool = False,
        momentum: float = 0.99,
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype="float32", autocast=False, **{k: v for k, v in kwargs.items() if k != "dtype"})
        if padding not in ("valid", "same"):
            raise ValueError(f"Expected `padding` 'valid' or 'same'. Received: padding={padding!r}")
        if not 0.0 < momentum < 1.0:
            raise ValueError(f"Expected `momentum` in (0, 1). Received: momentum={momentum}")
        self.kernel_size = _pair(kernel_size)
        self.strides = _pair(strides)
        self.padding = padding
        self.constant = bool(constant)
        self.momentum = float(momentum)
        self.average = self.add_weight(
            name="average", shape=(), initializer="zeros", trainable=False, aggregation="mean"
        )
        self.batches = counter(self, "batches")
        self.built = True

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        """Constructor arguments of a few examples."""
        return [{"kernel_size": 3}, {"kernel_size": 3, "strides": 2, "padding": "same", "constant": True}]

    def magnitude(self, x: Tensor) -> Tensor:
        """`K`, of shape `(batch, height', width', 1)`."""
        mean = ops.mean(ops.abs(ops.cast(x, "float32")), axis=-1, keepdims=True)
        window = np.full((*self.kernel_size, 1, 1), 1.0 / np.prod(self.kernel_size), np.float32)
        return ops.conv(mean, window, strides=self.strides, padding=self.padding)

    def call(self, inputs: list[Tensor], training: bool = False) -> Tensor:
        outputs, x = inputs
        if not self.constant:
            return outputs * ops.cast(self.magnitude(x), outputs.dtype)
        if training and self.trainable and first_time_in_call(self):
            now = ops.stop_gradient(ops.mean(self.magnitude(x)))
            average, finite = value_of(self.average), ops.isfinite(now)
            moved = self.momentum * average + (1.0 - self.momentum) * now
            # One batch with an infinite value would spoil the average for ever.
            assign(self.average, ops.where(finite, moved, average))
            assign(self.batches, value_of(self.batches) + ops.cast(finite, "int64"))
        return outputs * ops.cast(self.factor(), outputs.dtype)

    def factor(self) -> Tensor:
        """The average of `K` so far, scalar; 1 before any batch."""
        batches = value_of(self.batches)
        weight = 1.0 - ops.power(self.momentum, ops.cast(ops.maximum(batches, 1), "float32"))
        return ops.where(batches > 0, value_of(self.average) / weight, 1.0)

    def compute_output_spec(self, inputs: list[Any], training: bool = False) -> Any:
        return keras.KerasTensor(inputs[0].shape, inputs[0].dtype)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.pop("dtype", None)
        return {
            **config,
            "kernel_size": list(self.kernel_size),
            "strides": list(self.strides),
            "padding": self.padding,
            "constant": self.constant,
            "momentum": self.momentum,
        }


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return int(first), int(second)
