"""Singular value decompositions that weigh directions by what the data use them for."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from keras_compress.factorization.evbmf import evbmf_rank
from keras_compress.factorization.scheme import Array, Factors, Option, Place, Rank, lost, singular_values

# Least eigenvalue of a Gram matrix, of their mean: directions that the data never had keep a little weight.
DAMPING = 1e-6


class Truncated(Factors):
    """A decomposition cut off: of each group `U_r sqrt(S_r)` and `sqrt(S_r) V_r^T`. A subclass says of which matrix.

    Args:
        place: The layer.
        gram: `X^T X` of what each group reads, or none.
    """

    def __init__(self, place: Place, gram: Array | None) -> None:
        super().__init__(place)
        self._gram = gram
        self._groups, self._inputs, self._outputs = self._matrix().shape
        self.full = (min(self._inputs, self._outputs),)

    def _matrix(self) -> Array:
        """The weight, `(groups, inputs, outputs)`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `_matrix()`.")

    @cached_property
    def _svd(self) -> tuple[Array, Array, Array]:
        """`U`, `S` and `V^T` of each group, U as the first factor needs it."""
        return truncatable(self._matrix(), self._gram)

    @cached_property
    def _values(self) -> Array:
        return values_of(self._matrix(), self._gram)

    @cached_property
    def _lost(self) -> Array:
        return lost(self._values)

    def option(self, rank: Rank) -> Option:
        size = rank[0] * self._groups * (self._inputs + self._outputs)
        return Option("svd", rank, float(self._lost[rank[0]]), size * self._place.products, size)

    def of_evidence(self) -> Rank:
        return (max(1, *(evbmf_rank(each, self._inputs, self._outputs) for each in self._values)),)

    def _matrices(self, rank: Rank) -> tuple[Array, Array]:
        """`(groups, inputs, r)` and `(groups, r, outputs)`."""
        left, values, right = self._svd
        scale = np.sqrt(values[:, : rank[0]])
        return left[:, :, : rank[0]] * scale[:, None], scale[:, :, None] * right[:, : rank[0]]


def truncatable(matrix: Array, gram: Array | None) -> tuple[Array, Array, Array]:
    """`U`, `S` and `V^T` of each group: cut to r, `U S V^T` is the nearest of rank r.

    With `X^T X = R^T R` nearest in `||X W - X W_r||`: the decomposition of `R W`, and U with the inverse of R.

    Args:
        matrix: `(groups, inputs, outputs)`.
        gram: `X^T X` of each group, `(groups, inputs, inputs)`, or none. A group whose gram is 0 is taken as it is
            without data: what the data never had is not for nothing.
    """
    if gram is None:
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        return left, values, right
    roots, inverses = _roots(gram)
    left, values, right = np.linalg.svd(roots @ matrix, full_matrices=False)
    return inverses @ left, values, right


def values_of(matrix: Array, gram: Array | None) -> Array:
    """The singular values alone, much sooner."""
    return singular_values(matrix if gram is None else _roots(gram)[0] @ matrix)


def _roots(gram: Array) -> tuple[Array, Array]:
    """Roots of all groups. One that read nothing but zeros takes all directions alike, as large as the others' are."""
    means = np.trace(gram, axis1=1, axis2=2) / gram.shape[1]
    usual = float(means[means > 0].mean()) if (means > 0).any() else 1.0
    alike = usual * np.eye(gram.shape[1])
    pairs = [_root(each if mean > 0 else alike) for each, mean in zip(gram, means, strict=True)]
    return np.stack([root for root, _ in pairs]), np.stack([inverse for _, inverse in pairs])


def _root(gram: Array) -> tuple[Array, Array]:
    """R with `R^T R` = a Gram matrix, made definite, and the inverse of R."""
    # Products of many float32 inputs: rounding alone makes small eigenvalues negative.
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    sizes = np.sqrt(np.maximum(values, DAMPING * float(np.trace(gram)) / len(gram)))
    return sizes[:, None] * vectors.T, vectors / sizes
