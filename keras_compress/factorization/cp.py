"""CP: a depthwise convolution between two 1x1 convolutions."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import keras
import numpy as np

from keras_compress.core.registry import register
from keras_compress.factorization.scheme import (
    Array,
    Factors,
    Option,
    Place,
    Rank,
    Scheme,
    first_of,
    last_of,
    no_taps,
    share_lost,
)
from keras_compress.graph.split_convolution import POINTWISE, depthwise_of

# Ridge of the alternating least squares, relative to the mean square of the weight.
RIDGE = 1e-3
_ITERATIONS = 100


@register("factorization", "cp")
class CP(Scheme):
    """A 1x1 convolution to r channels, a depthwise convolution, and a 1x1 convolution to the filters.

    **Factors** `K[t, c, f] ~ sum_r A[t, r] B[c, r] C[f, r]` with taps t, by tensorly's `parafac` (alternating least
    squares), stabilised by a ridge: without it, terms of opposite signs grow without bound and cancel, and the factors
    can be neither trained nor quantized.

    **Reference**: Lebedev et al., "Speeding-up convolutional neural networks using fine-tuned CP-decomposition" (2015);
    Phan et al., "Stable low-rank tensor decomposition for compression of convolutional neural network" (2020) for the
    instability.
    **Deviations**: height and width are one mode, which a depthwise convolution computes at once; the ridge bounds the
    factors' norms in place of their sensitivity.
    """

    name = "cp"

    def refusal(self, layer: Any) -> str | None:
        if (reason := no_taps(layer)) is None and layer.strides[0] != layer.strides[1]:
            return f"DepthwiseConv2D has no strides {tuple(layer.strides)}"
        return reason

    def factors(self, place: Place, gram: Array | None = None) -> Factors:
        return _Terms(place)


class _Terms(Factors):
    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._kernel = place.kernel
        height, width, channels, filters = self._kernel.shape
        self._taps = height * width
        # More terms than this are never needed.
        taps = self._taps
        self.full = (min(taps * channels, taps * filters, channels * filters),)
        self._decomposed = lru_cache(maxsize=8)(self._decompose)

    def option(self, rank: Rank) -> Option:
        channels, filters = self._kernel.shape[2:]
        first, core, last = channels * rank[0], self._taps * rank[0], rank[0] * filters
        macs = self._place.input_positions * first + self._place.output_positions * (core + last)
        return Option("cp", rank, share_lost(self.merged(rank), self._kernel), macs, first + core + last)

    def _decompose(self, rank: Rank) -> tuple[Array, Array, Array]:
        from tensorly.decomposition import parafac

        tensor = self._kernel.reshape(self._taps, *self._kernel.shape[2:])
        ridge = RIDGE * float(np.mean(np.square(tensor)))
        weights, factors = parafac(
            tensor, rank[0], n_iter_max=_ITERATIONS, init="random", random_state=0, l2_reg=ridge, tol=1e-7
        )
        taps, channels, filters = (np.asarray(each) for each in factors)
        # Each term's size is shared by its three factors.
        sizes = [np.linalg.norm(each, axis=0) + 1e-30 for each in (taps, channels, filters)]
        common = np.cbrt(np.asarray(weights) * np.prod(sizes, axis=0))
        return taps / sizes[0] * common, channels / sizes[1] * common, filters / sizes[2] * common

    def arrays(self, rank: Rank) -> list[Array]:
        taps, channels, filters = self._decomposed(rank)
        spatial = taps.reshape(*self._kernel.shape[:2], rank[0], 1)
        return [channels[None, None], spatial, filters.T[None, None]]

    def merged(self, rank: Rank) -> Array:
        whole: Array = np.einsum("tr,cr,fr->tcf", *self._decomposed(rank))
        return whole.reshape(self._kernel.shape)

    def layers(self, rank: Rank) -> list[keras.layers.Layer]:
        layer = self._place.layer
        first = first_of(layer, "inputs", filters=rank[0], **POINTWISE)
        return [first, depthwise_of(layer), last_of(layer, **POINTWISE)]
