"""Lightweight convolution over sequences: depthwise, with few kernels that softmax normalizes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from keras_compress.blocks.parts import Tensor, divided, named, whole
from keras_compress.core.registry import PACKAGE, register
from keras_compress.structured.channel_ids import Axes
from keras_compress.structured.rules.rule import Rule, Visit


@keras.saving.register_keras_serializable(package=PACKAGE)
class LightweightConv1D(keras.layers.Layer):
    """A depthwise convolution whose channels share H kernels, each softmax-normalized over its taps.

    **Forward** with d channels, k taps and a weight `W` of `(k, H)`,

        y[i, c] = sum over j = 0 .. k-1 of softmax(W[:, c H // d])[j] * x[i + j - k // 2, c]

    `causal` reads `x[i + j - (k - 1)]`. The paper writes `ceil(c H / d)` of heads counted from
    1: consecutive channels share a head. **Gradient** of the same.

    It has `k H` weights, where a depthwise convolution has `k d` and a convolution `k d^2`. In int8 files it is a
    depthwise convolution of the kernels that softmax gave, with 8 bits for each channel.

    Args:
        kernel_size: k, taps, >= 1.
        heads: H, a divisor of the channels.
        causal: Whether nothing later is read.

    Input shape: `(batch, steps, channels)`. Output shape: the same.

    Raises:
        ValueError: For numbers below 1, or heads that do not divide the channels.

    **Reference**: Wu et al., "Pay less attention with lightweight and dynamic convolutions" (2019), section 3.
    **Deviations**: no DropConnect of the normalized weights.
    """

    def __init__(self, kernel_size: int = 3, heads: int = 4, *, causal: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kernel_size = whole(kernel_size, "kernel_size", self.name)
        self.heads = whole(heads, "heads", self.name)
        self.causal = bool(causal)

    def build(self, input_shape: Any) -> None:
        if len(input_shape) != 3 or input_shape[-1] is None:
            raise ValueError(f"Expected sequences, (batch, steps, channels). Received: shape={tuple(input_shape)}")
        divided(int(input_shape[-1]), self.heads, "channels", self.name)
        self.kernel = self.add_weight(name="kernel", shape=(self.kernel_size, self.heads))

    @property
    def before(self) -> int:
        """Steps before the one at hand that are read."""
        return self.kernel_size - 1 if self.causal else self.kernel_size // 2

    def shared(self, channels: int) -> Tensor:
        """The normalized kernels, `(taps, channels, 1)`."""
        return ops.expand_dims(ops.repeat(ops.softmax(self.kernel, axis=0), channels // self.heads, axis=1), -1)

    def shared_values(self, channels: int) -> NDArray[np.float32]:
        """The same as values."""
        values: NDArray[np.float32] = np.asarray(ops.convert_to_numpy(self.shared(channels)), np.float32)
        return values

    def call(self, inputs: Tensor) -> Tensor:
        kernel = ops.cast(self.shared(int(inputs.shape[-1])), inputs.dtype)
        ends = (self.before, self.kernel_size - 1 - self.before)
        padded = ops.pad(inputs, ((0, 0), ends, (0, 0)))
        return ops.depthwise_conv(padded, kernel, strides=1, padding="valid", data_format="channels_last")

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        own = {"kernel_size": self.kernel_size, "heads": self.heads, "causal": self.causal}
        return {**super().get_config(), **own}


@register("channel_rule")
class LightweightConv1DRule(Rule):
    """Each channel for itself; heads lose the channels of the same positions, so that they stay equally wide."""

    handles = (LightweightConv1D,)

    def outputs(self, visit: Visit) -> list[Axes]:
        layer, last = visit.operation, visit.only_last("moves along it")
        if last is not None:
            visit.record.ids.tie_rows(last, layer.heads)
        channels = last if last is not None else int(visit.shape[-1] or 1)
        visit.product(visit.positions(visit.output_shape) * layer.kernel_size, channels)
        return [{} if last is None else {len(visit.shape) - 1: last}]


def light_conv(
    x: Tensor, units: int, *, kernel_size: int = 3, heads: int = 4, causal: bool = False, name: str = ""
) -> Tensor:
    """A Dense layer with a gate for each channel, a lightweight convolution, a Dense layer.

    Args:
        x: Sequences, `(batch, steps, channels)`.
        units: Channels inside and of what comes out, a multiple of `heads`.
        kernel_size: Taps, >= 1.
        heads: Kernels.
        causal: Whether nothing later is read.
        name: What names of the layers begin with.

    Returns:
        Sequences, `(batch, steps, units)`.

    Raises:
        ValueError: For what are no sequences, or heads that do not divide the units.

    **Reference**: Wu et al., "Pay less attention with lightweight and dynamic convolutions" (2019), figure 2 (b):
    a linear layer, a GLU, the convolution and a linear layer.
    """
    if len(getattr(x, "shape", ())) != 3:
        where = f" at {name!r}" if name else ""
        raise ValueError(f"Expected sequences, (batch, steps, channels){where}. Received: {getattr(x, 'shape', x)!r}")
    divided(whole(units, "units", name), whole(heads, "heads", name), "`units`", name)
    values = layers.Dense(units, name=named(name, "values"))(x)
    gate = layers.Dense(units, activation="sigmoid", name=named(name, "gate"))(x)
    gated = layers.Multiply(name=named(name, "glu"))([values, gate])
    y = LightweightConv1D(kernel_size, heads, causal=causal, name=named(name, "conv"))(gated)
    return layers.Dense(units, name=named(name, "out"))(y)
