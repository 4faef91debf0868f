"""A convolution as one down the columns and one along the rows."""

from __future__ import annotations

from functools import cached_property
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
    is_a,
    last_of,
    lost,
    singular_values,
)


@register("factorization", "spatial")
class Spatial(Scheme):
    """Horizontal and vertical filters: `(height, 1)` to r channels, then `(1, width)` to the filters.

    **Factors** The weight as a matrix of `height x input channels` rows and `width x filters` columns, truncated as in
    `svd`. For one input channel and one filter these are rank-1 filters.

    **Reference**: Jaderberg et al. (2014), scheme 2.
    **Deviations**: solved in closed form on the weight (their equation 5 by SVD), not by gradient descent on it.
    """

    name = "spatial"
    chosen_by_itself = True

    def refusal(self, layer: Any) -> str | None:
        if not is_a(layer, keras.layers.Conv2D) or layer.groups != 1 or min(layer.kernel_size) < 2:
            return f"{type(layer).__name__} has no kernel with rows and columns over all channels"
        return None

    def factors(self, place: Place, gram: Array | None = None) -> Factors:
        return _Lines(place)


class _Lines(Factors):
    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._shape = place.kernel.shape
        height, width, channels, filters = self._shape
        self.full = (min(height * channels, width * filters),)

    def _matrix(self) -> Array:
        height, width, channels, filters = self._shape
        matrix: Array = self._place.kernel.transpose(0, 2, 1, 3).reshape(height * channels, width * filters)
        return matrix

    @cached_property
    def _svd(self) -> tuple[Array, Array, Array]:
        left, values, right = np.linalg.svd(self._matrix(), full_matrices=False)
        return left, values, right

    @cached_property
    def _values(self) -> Array:
        return singular_values(self._matrix())

    @cached_property
    def _lost(self) -> Array:
        return lost(self._values[None])

    def option(self, rank: Rank) -> Option:
        height, width, channels, filters = self._shape
        # The first one leaves the width as it is.
        between = self._place.calls * (self._place.outputs[1] or 1) * (self._place.inputs[2] or 1)
        columns, rows = rank[0] * height * channels, rank[0] * width * filters
        macs = between * columns + self._place.output_positions * rows
        return Option("spatial", rank, float(self._lost[rank[0]]), macs, columns + rows)

    def of_evidence(self) -> Rank:
        height, width, channels, filters = self._shape
        return (max(1, evbmf_rank(self._values, height * channels, width * filters)),)

    def arrays(self, rank: Rank) -> list[Array]:
        height, width, channels, filters = self._shape
        left, values, right = self._svd
        scale = np.sqrt(values[: rank[0]])
        first = (left[:, : rank[0]] * scale).reshape(height, channels, rank[0])
        second = (scale[:, None] * right[: rank[0]]).reshape(rank[0], width, filters)
        return [first[:, None], second.transpose(1, 0, 2)[None]]

    def merged(self, rank: Rank) -> Array:
        first, second = self.arrays(rank)
        whole: Array = np.einsum("hcr,wrf->hwcf", first[:, 0], second[0])
        return whole

    def layers(self, rank: Rank) -> list[keras.layers.Layer]:
        layer = self._place.layer
        settings = [
            {"kernel_size": size, "strides": strides, "dilation_rate": rates}
            for size, strides, rates in (
                ((layer.kernel_size[0], 1), (layer.strides[0], 1), (layer.dilation_rate[0], 1)),
                ((1, layer.kernel_size[1]), (1, layer.strides[1]), (1, layer.dilation_rate[1])),
            )
        ]
        return [first_of(layer, "vertical", filters=rank[0], **settings[0]), last_of(layer, **settings[1])]
