"""Active shift: how far each channel is moved is trained."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_compress.blocks.parts import Tensor
from keras_compress.blocks.shift import Shift, ShiftRule
from keras_compress.core.registry import PACKAGE, register


@keras.saving.register_keras_serializable(package=PACKAGE)
class ActiveShift(Shift):
    """Moves each channel by two numbers that are trained with the weights.

    **Forward** in training, with `(a_c, b_c)` the displacement of channel c,

        y[h, w, c] = sum over n, m of x[n, m, c] * max(0, 1 - |h + a_c - n|) * max(0, 1 - |w + b_c - m|)

    which is bilinear between the four nearest pixels. In inference, and so in files, displacements
    are rounded to whole pixels, and channels are moved as in `Shift`: nothing is multiplied then. What validation sees
    is what is deployed. **Gradient** of the same formula; of displacements beyond the kernel 0. With
    `whole_pixels=True` training rounds too, and displacements get the gradients of the formula: the two agree then.

    Args:
        kernel_size: An odd number >= 3: displacements end at `(kernel_size - 1) / 2`.
        whole_pixels: Whether training rounds, too.

    Input shape: `(batch, height, width, channels)`. Output shape: the same.

    Raises:
        ValueError: For a size that is not odd.

    **Reference**: Jeon and Kim, "Constructing fast network through deconstruction of convolution" (2018), active
    shift layer; Chen et al., "All you need is a few shifts" (2019), for rounding in training.
    **Deviations**: displacements are rounded when deployed, where the paper interpolates; they have a bound; they are
    trained by the model's optimizer, without a normalization of their gradients.
    """

    def __init__(self, kernel_size: int = 3, *, whole_pixels: bool = False, **kwargs: Any) -> None:
        super().__init__(kernel_size, **kwargs)
        self.whole_pixels = bool(whole_pixels)

    def build(self, input_shape: Any) -> None:
        if len(input_shape) != 4 or input_shape[-1] is None:
            raise ValueError(f"Expected images, (batch, height, width, channels). Received: shape={tuple(input_shape)}")
        self.displacement = self.add_weight(
            name="displacement",
            shape=(input_shape[-1], 2),
            initializer=keras.initializers.RandomUniform(-1.0, 1.0),
            trainable=True,
        )

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        inside = ops.clip(ops.cast(self.displacement, self.compute_dtype), -self.reach, self.reach)
        if not training:
            return self.moved(inputs, self.taps(ops.round(inside)))
        taps = self.taps(inside)
        if self.whole_pixels:
            taps = taps + ops.stop_gradient(self.taps(ops.round(inside)) - taps)
        return self.moved(inputs, taps)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "whole_pixels": self.whole_pixels}


@register("channel_rule")
class ActiveShiftRule(ShiftRule):
    """The same of trained displacements."""

    handles = (ActiveShift,)
