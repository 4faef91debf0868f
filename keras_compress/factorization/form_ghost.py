"""A convolution as a smaller one, of whose channels cheap depthwise ones make the others."""

from __future__ import annotations

import keras
import numpy as np

from keras_compress.core.registry import register
from keras_compress.factorization.forms import KIND, Form, FormFactors, divisors, truncated
from keras_compress.factorization.scheme import Array, Factors, Place, Rank, first_of
from keras_compress.graph.configuration import configuration

# Taps of the cheap convolutions, as in the paper, and the most channels that are made of one.
CHEAP, MOST = 3, 8


@register(KIND, "ghost")
class Ghost(Form):
    """A convolution to F / s channels, then a 3x3 depthwise one that makes s of each.

    **Factors** Each s neighbouring filters are a matrix of s rows; its largest singular value gives the filter that is
    computed and what the s are of it, in the middle of the depthwise kernels. Their other taps are 0, for training to
    use. For each position `F / s (taps C + 9 s)` multiplications in place of `taps C F`.

    `kc.compact` puts filters that are alike, but for a factor, next to each other before, through the whole model.

    **Reference**: Han et al., "GhostNet: More features from cheap operations" (2020), section 3.1.
    **Deviations**: all s channels pass the depthwise convolution, where one of the paper's is the computed one itself.
    """

    name = "ghost"
    counted = "channels of each"

    def refusal(self, layer: keras.layers.Layer) -> str | None:
        known = super().refusal(layer)
        if known is None and not divisors(layer.filters, MOST):
            return f"its {layer.filters} filters have no divisor from 2 to {MOST}"
        return known

    def factors(self, place: Place, gram: Array | None = None) -> Factors:
        return _Ghosts(place)


class _Ghosts(FormFactors):
    name = "ghost"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.full = (max(self.numbers()),)
        self._found: dict[int, list[Array]] = {}

    def numbers(self) -> list[int]:
        return divisors(self._filters, MOST)

    def sizes(self, number: int) -> tuple[int, int]:
        weights = self._filters // number * self._taps * self._channels + self._filters * CHEAP**2
        return weights, weights

    def arrays(self, rank: Rank) -> list[Array]:
        ratio = rank[0]
        if ratio not in self._found:
            made = self._filters // ratio
            rows = self._kernel.reshape(-1, made, ratio).transpose(1, 2, 0)
            factors, filters = truncated(rows, 1)
            primary = filters[:, 0].T.reshape(*self._kernel.shape[:3], made)
            cheap = np.zeros((CHEAP, CHEAP, made, ratio))
            cheap[CHEAP // 2, CHEAP // 2] = factors[..., 0]
            self._found[ratio] = [primary, cheap]
        return self._found[ratio]

    def merged(self, rank: Rank) -> Array:
        primary, cheap = self.arrays(rank)
        whole: Array = np.einsum("hwcm,ms->hwcms", primary, cheap[CHEAP // 2, CHEAP // 2]).reshape(self._kernel.shape)
        return whole

    def layers(self, rank: Rank) -> list[keras.layers.Layer]:
        layer = self._place.layer
        with configuration(layer) as config:
            shared = {
                key: config[key] for key in ("name", "use_bias", "activation", "dtype", "trainable", "bias_regularizer")
            }
            last = keras.layers.DepthwiseConv2D(CHEAP, padding="same", depth_multiplier=rank[0], **shared)
        return [first_of(layer, "primary", filters=self._filters // rank[0]), last]
