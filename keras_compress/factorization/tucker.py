"""Tucker-2: a convolution over fewer channels between two 1x1 convolutions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any

import keras
import numpy as np

from keras_compress.core.registry import register
from keras_compress.factorization.evbmf import evbmf_rank
from keras_compress.factorization.scheme import (
    Array,
    Factors,
    Option,
    Place,
    Rank,
    Scheme,
    first_of,
    last_of,
    lost,
    multiples,
    no_taps,
    share_lost,
    singular_values,
)
from keras_compress.graph.split_convolution import POINTWISE


@register("factorization", "tucker")
class Tucker(Scheme):
    """A 1x1 convolution to r1 channels, the convolution from r1 to r2, and a 1x1 convolution to the filters.

    **Factors** `K ~ C x_3 U x_4 V`: a core of `height x width x r1 x r2` and two matrices with orthonormal columns, by
    tensorly's `partial_tucker` (higher-order orthogonal iteration). What ranks lose is bounded by the energy that both
    unfoldings lose, which is what they are chosen by.

    **Reference**: Kim et al., "Compression of deep convolutional neural networks for fast and low power mobile
    applications" (2016).
    """

    name = "tucker"
    chosen_by_itself = True

    def refusal(self, layer: Any) -> str | None:
        return no_taps(layer)

    def factors(self, place: Place, gram: Array | None = None) -> Factors:
        return _Core(place)


class _Core(Factors):
    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._kernel = place.kernel
        self._taps = int(np.prod(self._kernel.shape[:2]))
        channels, filters = self._kernel.shape[2:]
        self._shapes = [(channels, self._taps * filters), (filters, self._taps * channels)]
        self.full = (min(self._shapes[0]), min(self._shapes[1]))
        self._decomposed = lru_cache(maxsize=2)(self._decompose)

    @cached_property
    def _values(self) -> list[Array]:
        """Singular values of the unfoldings along input and output channels."""
        unfolded = [np.moveaxis(self._kernel, 2 + n, 0).reshape(shape) for n, shape in enumerate(self._shapes)]
        return [singular_values(each) for each in unfolded]

    @cached_property
    def _lost(self) -> list[Array]:
        return [lost(each[None]) for each in self._values]

    def option(self, rank: Rank) -> Option:
        channels, filters = self._kernel.shape[2:]
        first, core, last = channels * rank[0], self._taps * rank[0] * rank[1], rank[1] * filters
        macs = self._place.input_positions * first + self._place.output_positions * (core + last)
        error = float(self._lost[0][rank[0]] + self._lost[1][rank[1]])
        return Option("tucker", rank, min(error, 1.0), macs, first + core + last)

    def ranks(self, multiple: int) -> Iterator[Rank]:
        yield from itertools.product(*(multiples(most, multiple) for most in self.full))

    def of_energy(self, kept: float, multiple: int = 1) -> Rank:
        """The smallest ranks at which each unfolding loses half of what may be lost."""
        half = (1.0 - kept) / 2
        found = []
        for curve, most in zip(self._lost, self.full, strict=True):
            enough = (n for n in multiples(most, multiple) if curve[n] <= half + 1e-12)
            found.append(next(enough, most))
        return found[0], found[1]

    def of_evidence(self) -> Rank:
        first, last = (max(1, evbmf_rank(each, *shape)) for each, shape in zip(self._values, self._shapes, strict=True))
        return first, last

    def _decompose(self, rank: Rank) -> tuple[Array, Array, Array]:
        from tensorly.decomposition import partial_tucker

        (core, (first, last)), _ = partial_tucker(self._kernel, rank=list(rank), modes=[2, 3], random_state=0)
        return np.asarray(core), np.asarray(first), np.asarray(last)

    def error(self, rank: Rank) -> float:
        return share_lost(self.merged(rank), self._kernel)

    def arrays(self, rank: Rank) -> list[Array]:
        core, first, last = self._decomposed(rank)
        return [first[None, None], core, last.T[None, None]]

    def merged(self, rank: Rank) -> Array:
        core, first, last = self._decomposed(rank)
        whole: Array = np.einsum("hwrs,cr,fs->hwcf", core, first, last)
        return whole

    def layers(self, rank: Rank) -> list[keras.layers.Layer]:
        layer = self._place.layer
        return [
            first_of(layer, "inputs", filters=rank[0], **POINTWISE),
            first_of(layer, "core", filters=rank[1]),
            last_of(layer, **POINTWISE),
        ]
