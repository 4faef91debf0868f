"""Singular value decompositions that weigh directions by what the data use them for."""

from __future__ import annotations

import numpy as np

from keras_compress.factorization.scheme import Array, singular_values

# Least eigenvalue of a Gram matrix, of their mean: directions that the data never had keep a little weight.
DAMPING = 1e-6


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
