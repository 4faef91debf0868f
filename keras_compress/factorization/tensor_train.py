"""Tensor train: a large Dense as a chain of small products."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import keras
import numpy as np

from keras_compress.core.registry import register
from keras_compress.factorization.scheme import Array, Factors, Option, Place, Rank, Scheme, is_a, share_lost

# Factors of each side of the weight.
_CORES = 3
_LETTERS = "cdefgh"


@register("factorization", "tensor_train")
class TensorTrain(Scheme):
    """The inputs as a box of `m1 x m2 x m3`, the outputs as one of `n1 x n2 x n3`, and a product for each pair.

    **Factors** `W[m1 m2 m3, n1 n2 n3] ~ sum G1[m1, n1, r1] G2[r1, m2, n2, r2] G3[r2, m3, n3]`, all ranks between cores
    the same, by tensorly's `tensor_train_matrix` (successive SVDs). Each core is an EinsumDense; reshapes stand at both
    ends.

    **Reference**: Novikov et al., "Tensorizing neural networks" (2015); Oseledets, "Tensor-train decomposition"
    (2011).
    """

    name = "tensor_train"

    def refusal(self, layer: Any) -> str | None:
        if not is_a(layer, keras.layers.Dense):
            return f"{type(layer).__name__} is no Dense"
        if min(_split(int(side))[1] for side in layer.kernel.shape) < 2:
            return f"its sides {tuple(layer.kernel.shape)} are no products of {_CORES} numbers"
        return None

    def refusal_at(self, place: Place) -> str | None:
        if len(place.inputs) != 2 and self.refusal(place.layer) is None:
            return f"it reads {place.inputs}, and a tensor train is for inputs (batch, features)"
        return self.refusal(place.layer)

    def factors(self, place: Place, gram: Array | None = None) -> Factors:
        return _Train(place)


def _split(side: int) -> tuple[int, ...]:
    """Three whole numbers whose product is a side, as like each other as can be, the largest first.

    >>> _split(512), _split(10)
    ((8, 8, 8), (5, 2, 1))
    """
    divisors = [n for n in range(1, side + 1) if side % n == 0]
    choices = [
        tuple(sorted((a, b, side // (a * b)), reverse=True)) for a in divisors for b in divisors if side % (a * b) == 0
    ]
    return min(choices, key=lambda each: (sum(each), each))


class _Train(Factors):
    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._kernel = place.kernel
        self._sides = [_split(side) for side in self._kernel.shape]
        inputs, outputs = self._sides
        self.full = (min(inputs[0] * outputs[0], inputs[-1] * outputs[-1] * inputs[1] * outputs[1]),)
        self._decomposed = lru_cache(maxsize=8)(self._decompose)

    def ranks(self, multiple: int) -> Iterator[Rank]:
        (most,) = self.full
        # Ranks of a train are small: powers of two up to the multiple, then multiples.
        small = [2**n for n in range(multiple.bit_length()) if 2**n < min(multiple, most + 1)]
        yield from ((rank,) for rank in (*small, *range(multiple, most + 1, multiple)))

    def _decompose(self, rank: Rank) -> list[Array]:
        from tensorly.decomposition import tensor_train_matrix

        inputs, outputs = self._sides
        # tensorly wants the axes of all inputs, then those of all outputs.
        tensor = self._kernel.reshape(*inputs, *outputs)
        cores = tensor_train_matrix(tensor, rank=[1, *[rank[0]] * (_CORES - 1), 1])
        return [np.asarray(core) for core in cores]

    def option(self, rank: Rank) -> Option:
        params = sum(core.size for core in self._decomposed(rank))
        error = share_lost(self.merged(rank), self._kernel)
        return Option("tensor_train", rank, error, self._place.calls * self._macs(rank), params)

    def _macs(self, rank: Rank) -> int:
        """Of all products in order: what is not summed yet stays an axis."""
        inputs, outputs = self._sides
        total = 0
        for number, core in enumerate(self._decomposed(rank)):
            total += core.size * math.prod(inputs[number + 1 :]) * math.prod(outputs[:number])
        return total

    def merged(self, rank: Rank) -> Array:
        first, *others = self._decomposed(rank)
        whole = first
        for core in others:
            joined = np.einsum("aijb,bklc->aikjlc", whole, core)
            a, i, k, j, n, c = joined.shape
            whole = joined.reshape(a, i * k, j * n, c)
        return whole[0, :, :, 0]

    def arrays(self, rank: Rank) -> list[Array]:
        """Without the ranks of one at both ends."""
        cores = self._decomposed(rank)
        return [cores[0][0], *cores[1:-1], cores[-1][..., 0]]

    def layers(self, rank: Rank) -> list[keras.layers.Layer]:
        layer = self._place.layer
        inputs, outputs = self._sides
        own = {"dtype": layer.dtype_policy, "trainable": layer.trainable}
        made: list[keras.layers.Layer] = [keras.layers.Reshape(inputs, name=f"{layer.name}_box", dtype=own["dtype"])]
        ranks = [core.shape[-1] for core in self._decomposed(rank)]
        left, right, sizes = _LETTERS[:_CORES], "xyz", dict(zip(_LETTERS, inputs, strict=False))
        sizes |= dict(zip("xyz", outputs, strict=False))
        values = f"b{left}"
        for number in range(_CORES):
            last = number == _CORES - 1
            before, after = ("" if number == 0 else "r"), ("" if last else "s")
            result = f"b{left[number + 1 :]}{right[: number + 1]}{after}"
            equation = f"{values},{before}{left[number]}{right[number]}{after}->{result}"
            shape = tuple(ranks[number] if x == "s" else sizes[x] for x in result[1:])
            settings = own | (_of_last(layer, right) if last else {})
            made.append(keras.layers.EinsumDense(equation, shape, name=f"{layer.name}_core{number + 1}", **settings))
            values = result.replace("s", "r")
        made.append(keras.layers.Reshape((layer.units,), name=f"{layer.name}_row", dtype=own["dtype"]))
        # A softmax is over all outputs, not over the last side of the box.
        penalty = {"activity_regularizer": layer.activity_regularizer, "dtype": own["dtype"]}
        made.append(keras.layers.Activation(layer.activation, name=layer.name, **penalty))
        return made


def _of_last(layer: Any, letters: str) -> dict[str, Any]:
    """What the last core has of the layer: its bias, and the penalties, of kernels those that take any shape."""
    penalty = layer.kernel_regularizer
    made = {} if isinstance(penalty, keras.regularizers.OrthogonalRegularizer) else {"kernel_regularizer": penalty}
    if layer.use_bias:
        made["bias_axes"] = letters
        made |= {name: getattr(layer, name) for name in ("bias_regularizer", "bias_constraint")}
    return made
