"""A convolution as a shift of each channel, then a 1x1 convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_compress.blocks.shift import Shift
from keras_compress.core.registry import register
from keras_compress.factorization.forms import KIND, Form, FormFactors
from keras_compress.factorization.scheme import Array, Factors, Place, Rank, last_of
from keras_compress.graph.split_convolution import POINTWISE


@register(KIND, "shift")
class Shifted(Form):
    """Each input channel is read at one place, that of its tap with the most energy; a 1x1 convolution reads them.

    **Factors** Of input channel c the F weights of tap t where `sum_f K[t, c, f]^2` is the largest stay, which is the
    least error with one tap for each channel. For each position `C F` multiplications in place of `taps C F`.

    **Reference**: Wu et al., "Shift: A zero FLOP, zero parameter alternative to spatial convolutions" (2018), section
    3.
    """

    name = "shift"
    counted = "place a channel"

    def refusal_at(self, place: Place) -> str | None:
        layer = place.layer
        known = self.refusal(layer)
        if known is not None:
            return known
        if layer.padding != "same":
            return "a shift keeps the size of the image, and this convolution does not pad"
        sizes = [shape[1:3] for shape in (place.inputs, *place.others)]
        if max(layer.strides) > 1 and any(None in size for size in sizes):
            return "where strides begin depends on the size of the image, which is not known"
        if len({_padding(layer, size) for size in sizes}) > 1:
            return f"where strides begin differs between the images it is called on, of sizes {sorted(sizes)}"
        return None

    def factors(self, place: Place, gram: Array | None = None) -> Factors:
        return _Moved(place)


class _Moved(FormFactors):
    name = "shift"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.full = (1,)
        by_tap = self._kernel.reshape(self._taps, *self._kernel.shape[2:])
        self._chosen = np.square(by_tap).sum(axis=2).argmax(axis=0)
        self._weights = by_tap[self._chosen, np.arange(self._channels)]

    def numbers(self) -> list[int]:
        return [1]

    def sizes(self, number: int) -> tuple[int, int]:
        weights = self._channels * self._filters
        return weights, weights

    def displacements(self) -> Array:
        """`(channels, 2)`: how many rows and columns further on each channel is read."""
        layer = self._place.layer
        taps = np.stack(np.unravel_index(self._chosen, self._kernel.shape[:2]), axis=1)
        moved: Array = taps * np.array(layer.dilation_rate) - np.array(_padding(layer, self._place.inputs[1:3]))
        return moved

    def arrays(self, rank: Rank) -> list[Array]:
        return [self._weights[None, None]]

    def merged(self, rank: Rank) -> Array:
        whole = np.zeros((self._taps, self._channels, self._filters))
        whole[self._chosen, np.arange(self._channels)] = self._weights
        return whole.reshape(self._kernel.shape)

    def layers(self, rank: Rank) -> list[keras.layers.Layer]:
        layer = self._place.layer
        reach = int(np.abs(self.displacements()).max())
        # Strides stay with what reads.
        settings = {**POINTWISE, "strides": layer.strides}
        shift = Shift(2 * reach + 1, name=f"{layer.name}_shift", dtype=layer.dtype_policy)
        return [shift, last_of(layer, **settings)]

    def fill(self, layers: Sequence[Any], rank: Rank) -> None:
        layers[0].displacement.assign(self.displacements())
        super().fill(layers, rank)


def _padding(layer: Any, lengths: Sequence[int | None]) -> tuple[int, ...]:
    """Rows and columns of zeros before an image of these lengths, as "same" has them."""
    before = []
    for size, rate, stride, length in zip(layer.kernel_size, layer.dilation_rate, layer.strides, lengths, strict=True):
        reach = (size - 1) * rate
        # Without strides the length does not matter.
        last = 0 if stride == 1 else (-(-int(length or 0) // stride) - 1) * stride + 1 - int(length or 0)
        before.append(max(last + reach, 0) // 2)
    return tuple(before)
