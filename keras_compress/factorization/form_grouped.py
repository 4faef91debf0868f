"""A convolution as one in groups, then a 1x1 convolution."""

from __future__ import annotations

import keras
import numpy as np

from keras_compress.core.registry import register
from keras_compress.factorization.forms import KIND, Form, FormFactors, common, divisors, truncated
from keras_compress.factorization.scheme import Array, Factors, Place, Rank, first_of, last_of
from keras_compress.graph.split_convolution import POINTWISE


@register(KIND, "grouped")
class Grouped(Form):
    """A convolution in g groups with as many filters as there were, then a 1x1 convolution.

    **Factors** The weights that read the channels of a group are a matrix of `taps x channels` rows and F columns; its
    F / g largest singular values give the group's filters and what they count in each output: no others are nearer in
    the Frobenius norm. For each position `F (taps C / g + F)` multiplications in place of `taps C F`.

    `kc.compact` puts channels that are read alike next to each other before, through the whole model.

    **Reference**: Peng et al., "Extreme network compression via filter group approximation" (2018), section 3.
    """

    name = "grouped"
    counted = "groups"

    def refusal(self, layer: keras.layers.Layer) -> str | None:
        known = super().refusal(layer)
        if known is None and common(*layer.kernel.shape[2:]) == 1:
            return f"{layer.kernel.shape[2]} channels and {layer.kernel.shape[3]} filters have no groups in common"
        return known

    def factors(self, place: Place, gram: Array | None = None) -> Factors:
        return _Groups(place)


class _Groups(FormFactors):
    name = "grouped"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.full = (common(self._channels, self._filters),)
        self._found: dict[int, list[Array]] = {}

    def numbers(self) -> list[int]:
        return divisors(self.full[0], self.full[0])

    def sizes(self, number: int) -> tuple[int, int]:
        weights = self._filters * (self._taps * self._channels // number + self._filters)
        return weights, weights

    def arrays(self, rank: Rank) -> list[Array]:
        groups = rank[0]
        if groups not in self._found:
            height, width = self._kernel.shape[:2]
            each, made = self._channels // groups, self._filters // groups
            blocks = self._kernel.reshape(self._taps, groups, each, self._filters).swapaxes(0, 1)
            first, last = truncated(blocks.reshape(groups, self._taps * each, self._filters), made)
            # Where a group has fewer inputs than filters, some filters are left over.
            spare = made - first.shape[-1]
            first, last = np.pad(first, ((0, 0), (0, 0), (0, spare))), np.pad(last, ((0, 0), (0, spare), (0, 0)))
            kernel = first.reshape(groups, height, width, each, made).transpose(1, 2, 3, 0, 4)
            shape = (height, width, each, self._filters)
            self._found[groups] = [kernel.reshape(shape), last.reshape(1, 1, self._filters, self._filters)]
        return self._found[groups]

    def merged(self, rank: Rank) -> Array:
        kernel, last = self.arrays(rank)
        groups = rank[0]
        height, width, each, _ = kernel.shape
        parts = kernel.reshape(height, width, each, groups, self._filters // groups)
        shares = last.reshape(groups, self._filters // groups, self._filters)
        whole: Array = np.einsum("hwcgr,grf->hwgcf", parts, shares).reshape(self._kernel.shape)
        return whole

    def layers(self, rank: Rank) -> list[keras.layers.Layer]:
        layer = self._place.layer
        return [first_of(layer, "groups", groups=rank[0]), last_of(layer, **POINTWISE)]
