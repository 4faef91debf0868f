"""A convolution as a depthwise-separable one."""

from __future__ import annotations

import keras
import numpy as np

from keras_compress.core.registry import register
from keras_compress.factorization.forms import KIND, Form, FormFactors, truncated
from keras_compress.factorization.scheme import Array, Factors, Place, Rank, last_of
from keras_compress.graph.split_convolution import POINTWISE, depthwise_of


@register(KIND, "separable")
class Separable(Form):
    """A depthwise convolution with r spatial kernels for each input channel, then a 1x1 convolution.

    **Factors** Input channel c of the kernel is a matrix of taps and filters; its r largest singular values give r
    spatial kernels and the filters' shares of them: no others are nearer in the Frobenius norm. With all of them, as
    many as there are taps, nothing is lost. For each position `r C (taps + F)` multiplications in place of `taps C F`.

    **Reference**: Howard et al., "MobileNets" (2017) for the form; Guo et al., "Network decoupling: From regular to
    depthwise separable convolutions" (2018), theorem 1, for the decomposition.
    """

    name = "separable"
    counted = "spatial kernels a channel"

    def refusal_at(self, place: Place) -> str | None:
        known = self.refusal(place.layer)
        if known is None and place.layer.strides[0] != place.layer.strides[1]:
            return "a depthwise convolution has the same strides along both axes"
        return known

    def factors(self, place: Place, gram: Array | None = None) -> Factors:
        return _Separated(place)


class _Separated(FormFactors):
    name = "separable"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.full = (min(self._taps, self._filters),)
        self._parts = truncated(self._kernel.reshape(self._taps, *self._kernel.shape[2:]).swapaxes(0, 1), self.full[0])

    def numbers(self) -> list[int]:
        return list(range(1, self.full[0] + 1))

    def sizes(self, number: int) -> tuple[int, int]:
        weights = number * self._channels * (self._taps + self._filters)
        return weights, weights

    def arrays(self, rank: Rank) -> list[Array]:
        height, width = self._kernel.shape[:2]
        spatial, shares = self._parts[0][..., : rank[0]], self._parts[1][:, : rank[0]]
        depthwise = spatial.swapaxes(0, 1).reshape(height, width, self._channels, rank[0])
        return [depthwise, shares.reshape(1, 1, self._channels * rank[0], self._filters)]

    def merged(self, rank: Rank) -> Array:
        depthwise, pointwise = self.arrays(rank)
        shares = pointwise.reshape(self._channels, rank[0], self._filters)
        whole: Array = np.einsum("hwcr,crf->hwcf", depthwise, shares)
        return whole

    def layers(self, rank: Rank) -> list[keras.layers.Layer]:
        return [depthwise_of(self._place.layer, rank[0]), last_of(self._place.layer, **POINTWISE)]
