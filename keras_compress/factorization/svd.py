"""Truncated singular value decomposition of a weight as a matrix."""

from __future__ import annotations

from typing import Any

import keras

from keras_compress.core.registry import register
from keras_compress.factorization.cells import cells_of
from keras_compress.factorization.recurrent import InputKernel, dropouts
from keras_compress.factorization.scheme import (
    Array,
    Factors,
    Place,
    Rank,
    Scheme,
    first_of,
    is_a,
    last_of,
)
from keras_compress.factorization.whitening import Truncated
from keras_compress.graph.as_matrix import as_matrix
from keras_compress.graph.split_convolution import POINTWISE


@register("factorization", "svd")
class SVD(Scheme):
    """A weight of rank r: two layers, the first with r outputs.

    **Factors** `W ~ U_r S_r V_r^T`, of which the first layer gets `U_r sqrt(S_r)`, the second `sqrt(S_r) V_r^T`: no
    other two factors of rank r are nearer in the Frobenius norm (Eckart and Young). A convolution's weight is the
    matrix of `taps x input channels` rows and as many columns as filters: r basis filters, then a 1x1 convolution that
    combines them. With groups, each group has r of its own. Of a recurrent layer it is the input kernel, see
    `InputKernel`.

    With data, the error is that of the layer's outputs: with `X^T X = R^T R`, the decomposition of `R W` is truncated
    and the first factor multiplied with the inverse of R, so that `||X W - X W_r||` is the least.

    **Reference**: Denton et al., "Exploiting linear structure within convolutional networks for efficient evaluation"
    (2014); Jaderberg et al., "Speeding up convolutional neural networks with low rank expansions" (2014), scheme 1;
    Wang et al., "SVD-LLM" (2024) for the whitening.
    """

    name = "svd"
    chosen_by_itself = True
    data_aware = True

    def refusal(self, layer: Any) -> str | None:
        if cells_of(layer):
            return "its directions drop inputs at rates of their own" if len(dropouts(layer)) > 1 else None
        known = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Conv1D, keras.layers.Conv2D)
        if not is_a(layer, *known) or as_matrix(layer) is None:
            if isinstance(layer, keras.layers.MultiHeadAttention):
                return f"the projections of a {type(layer).__name__} are inside it, and it makes them anew when loaded"
            return f"{type(layer).__name__} has no weight that is one matrix"
        return None

    def factors(self, place: Place, gram: Array | None = None) -> Factors:
        return InputKernel(place, gram) if cells_of(place.layer) else _Pair(place, gram)


class _Pair(Truncated):
    def __init__(self, place: Place, gram: Array | None) -> None:
        self._layer = place.layer
        form = as_matrix(place.layer)
        if form is None:
            raise ValueError(f"Expected a layer whose weight is one matrix. Received: {place.layer.name!r}")
        self._form = form
        super().__init__(place, gram)

    def _matrix(self) -> Array:
        return self._form.to_matrix(self._place.kernel)

    def merged(self, rank: Rank) -> Array:
        first, second = self._matrices(rank)
        return self._form.from_matrix(first @ second)

    def arrays(self, rank: Rank) -> list[Array]:
        first, second = self._matrices(rank)
        kernel = self._place.kernel
        if isinstance(self._layer, keras.layers.Dense):
            return [first[0], second[0]]
        if isinstance(self._layer, keras.layers.EinsumDense):
            summed, free = self._letters()
            sizes = dict(zip(_kernel_letters(self._layer), kernel.shape, strict=True))
            return [
                first[0].reshape([*(sizes[letter] for letter in summed), rank[0]]),
                second[0].reshape([rank[0], *(sizes[letter] for letter in free)]),
            ]
        # Filters of a group stand side by side.
        basis = first.transpose(1, 0, 2).reshape(*kernel.shape[:-1], -1)
        ones = (1,) * (kernel.ndim - 2)
        return [basis, second.transpose(1, 0, 2).reshape(*ones, rank[0], -1)]

    def layers(self, rank: Rank) -> list[keras.layers.Layer]:
        layer = self._layer
        if isinstance(layer, keras.layers.Dense):
            return [first_of(layer, "basis", units=rank[0]), last_of(layer)]
        if isinstance(layer, keras.layers.EinsumDense):
            return self._einsums(rank[0])
        return [first_of(layer, "basis", filters=rank[0] * self._groups), last_of(layer, **POINTWISE)]

    def _letters(self) -> tuple[list[str], list[str]]:
        """Letters of the kernel that are summed over, and those that are in the output."""
        result = self._layer.equation.split("->")[1]
        letters = _kernel_letters(self._layer)
        return [x for x in letters if x not in result], [x for x in letters if x in result]

    def _einsums(self, rank: int) -> list[keras.layers.Layer]:
        layer = self._layer
        operands, result = layer.equation.replace(" ", "").split("->")
        values, _ = operands.split(",")
        summed, free = self._letters()
        new = next(x for x in "rstuvwxyz" if x not in layer.equation)
        middle = "".join(x for x in values if x not in summed) + new
        sizes = dict(zip(values.replace("...", "")[::-1], self._place.inputs[::-1], strict=False)) | {new: rank}
        named = middle.replace("...", "") if "..." in middle else middle[1:]
        settings = {"bias_axes": None, "output_shape": tuple(sizes[x] for x in named)}
        first = first_of_einsum(layer, f"{values},{''.join(summed)}{new}->{middle}", settings)
        return [first, last_of(layer, equation=f"{middle},{new}{''.join(free)}->{result}")]


def first_of_einsum(layer: Any, equation: str, settings: dict[str, Any]) -> Any:
    """An EinsumDense to stand in front of another; it has no `use_bias`."""
    return keras.layers.EinsumDense(
        equation, dtype=layer.dtype_policy, trainable=layer.trainable, name=f"{layer.name}_basis", **settings
    )


def _kernel_letters(layer: Any) -> str:
    return str(layer.equation.replace(" ", "").split("->")[0].split(",")[1])
