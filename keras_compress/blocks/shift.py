"""Shift: each channel moved by a whole number of pixels, in place of a spatial convolution."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from keras_compress.blocks.parts import Tensor, added, image_channels, keeps_shape, named, normalized, whole
from keras_compress.core.registry import PACKAGE, register
from keras_compress.structured.channel_ids import Axes
from keras_compress.structured.rules.rule import Rule, Visit

Array = NDArray[Any]


@keras.saving.register_keras_serializable(package=PACKAGE)
class Shift(keras.layers.Layer):
    """Moves each channel by a pixel or not at all: the channels in equal groups, one for each of the k x k directions.

    **Forward** `y[h, w, c] = x[h + a_c, w + b_c, c]`, zeros from outside, with `(a_c, b_c)` in `displacement`. What is
    left over of the channels stays where it is. **Gradient** moves back. Nothing is multiplied, and no weight is
    trained: the two numbers for each channel are constants, which cutting channels takes along.

    In int8 files the integers are moved as they are: on LiteRT by a depthwise convolution whose weights are 1 at one
    place, on TFLite-Micro by slices of the padded image, whichever is quicker there.

    Args:
        kernel_size: k, an odd number >= 1: how far channels go is `(k - 1) / 2`.

    Input shape: `(batch, height, width, channels)`. Output shape: the same.

    Raises:
        ValueError: For a size that is not odd.

    **Reference**: Wu et al., "Shift: A zero FLOP, zero parameter alternative to spatial convolutions" (2018), section
    3.
    """

    # Integers of the device pass as they are.
    moves_values = True

    def __init__(self, kernel_size: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(kernel_size, bool) or not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"Expected `kernel_size` as an odd number >= 1. Received: kernel_size={kernel_size!r}")
        self.kernel_size = kernel_size

    @property
    def reach(self) -> int:
        """Pixels that a channel may be moved by."""
        return self.kernel_size // 2

    def get_compressible_weights(self) -> dict[str, Any]:
        """None: displacements are no weights that something is multiplied by."""
        return {}

    def build(self, input_shape: Any) -> None:
        if len(input_shape) != 4 or input_shape[-1] is None:
            raise ValueError(f"Expected images, (batch, height, width, channels). Received: shape={tuple(input_shape)}")
        self.displacement = self.add_weight(
            name="displacement",
            shape=(input_shape[-1], 2),
            initializer=lambda shape, dtype=None: ops.convert_to_tensor(self._first(int(shape[0])), dtype),
            trainable=False,
        )

    def _first(self, channels: int) -> Array:
        places = np.arange(self.kernel_size**2)
        counts = np.full(len(places), channels // len(places))
        counts[len(places) // 2] += channels % len(places)
        group = np.repeat(places, counts)
        return np.stack([group // self.kernel_size, group % self.kernel_size], axis=1) - float(self.reach)

    def whole_pixels_moved(self) -> Array:
        """`(channels, 2)`: how many rows and columns further on each channel is read, as whole numbers."""
        found = np.rint(np.clip(ops.convert_to_numpy(self.displacement), -self.reach, self.reach))
        moved: Array = found.astype(np.int64)
        return moved

    def taps(self, displacement: Tensor) -> Tensor:
        """Weights of the depthwise convolution that interpolates between the four nearest pixels: one, if whole."""
        offsets = ops.cast(ops.arange(-self.reach, self.reach + 1), displacement.dtype)[:, None]
        rows, columns = (ops.relu(1.0 - ops.abs(offsets - displacement[None, :, axis])) for axis in (0, 1))
        return ops.expand_dims(rows[:, None] * columns[None], -1)

    def call(self, inputs: Tensor) -> Tensor:
        return self.moved(inputs, self.taps(ops.cast(self.displacement, self.compute_dtype)))

    def moved(self, inputs: Tensor, taps: Tensor) -> Tensor:
        """The images read at these taps."""
        return ops.depthwise_conv(inputs, taps, strides=1, padding="same", data_format="channels_last")

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kernel_size": self.kernel_size}


@register("channel_rule")
class ShiftRule(Rule):
    """Each channel is moved for itself."""

    handles = (Shift,)

    def outputs(self, visit: Visit) -> list[Axes]:
        last = visit.only_last("moves along it")
        visit.weight(visit.operation.displacement, 0, last, "through")
        return [{} if last is None else {len(visit.shape) - 1: last}]


def shift_block(
    x: Tensor, filters: int, *, expansion: float = 1.0, kernel_size: int = 3, strides: int = 1, name: str = ""
) -> Tensor:
    """A 1x1 convolution, a shift, a 1x1 convolution (the paper's CSC), behind normalizations; the input is added.

    With d channels in, d' out and t the expansion, for each position at stride 1 `t d' (d + d')` multiplications.

    Args:
        x: Images, `(batch, height, width, channels)`.
        filters: Channels that come out, >= 1.
        expansion: Channels between the convolutions as a multiple of `filters`, > 0.
        kernel_size: Of the shift, an odd number.
        strides: Of the second convolution; an input of another shape goes through a 1x1 convolution.
        name: What names of the layers begin with.

    Returns:
        Images, `(batch, height / strides, width / strides, filters)`.

    Raises:
        ValueError: For what are no images, or numbers out of range.

    **Reference**: Wu et al., "Shift: A zero FLOP, zero parameter alternative to spatial convolutions" (2018), the CSC
    module of section 3.
    """
    return csc(x, Shift(kernel_size, name=named(name, "shift")), filters, expansion, strides, name)


def csc(x: Tensor, shift: keras.layers.Layer, filters: int, expansion: float, strides: int, name: str) -> Tensor:
    """Convolution, shift, convolution, with this shift."""
    image_channels(x, name)
    wide = round(whole(filters, "filters", name) * expansion)
    if wide < 1:
        where = f" at {name!r}" if name else ""
        raise ValueError(f"Expected `expansion` that leaves a channel{where}. Received: expansion={expansion}")
    y = normalized(x, "relu", name, "in")
    shortcut = x
    if not keeps_shape(x, filters, strides):
        conv = layers.Conv2D(filters, 1, strides=strides, use_bias=False, name=named(name, "shortcut"))
        shortcut = conv(y)
    y = layers.Conv2D(wide, 1, use_bias=False, name=named(name, "expand"))(y)
    y = shift(normalized(y, "relu", name, "expand"))
    y = layers.Conv2D(filters, 1, strides=strides, use_bias=False, name=named(name, "project"))(y)
    return added(y, shortcut, name)
