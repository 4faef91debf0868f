"""How many singular values of a matrix are more than noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

Vector = NDArray[np.float64]
# Of the noise variance's bracket, in units of its upper end.
_TOLERANCE = 1e-8


def evbmf_rank(values: Vector, rows: int, columns: int) -> int:
    """The rank that empirical variational Bayes gives a matrix, from all of its singular values.

    With L <= M sides and a = L / M, a singular value g is kept where `g^2 > M s^2 x`, with `x = (1 + t)(1 + a / t)` and
    `t = 2.5129 sqrt(a)`. The noise variance s^2 is the minimum of equation 26 over its bounds.

    Args:
        values: Singular values, descending, `min(rows, columns)` of them.
        rows: Of the matrix.
        columns: Of the matrix.

    **Reference**: Nakajima et al., "Global analytic solution of fully-observed variational Bayesian matrix
    factorization", JMLR 14 (2013), corollary 2 and theorem 2 (the limit of large matrices for t).
    """
    short, long = sorted((rows, columns))
    squares = np.square(np.asarray(values, np.float64))
    if not squares.sum():
        return 0
    ratio = short / long
    t = 2.5129 * np.sqrt(ratio)
    limit = (1 + t) * (1 + ratio / t)
    most = max(0, min(int(np.ceil(short / (1 + ratio))) - 1, short) - 1)
    upper = squares.sum() / (short * long)
    rest = squares[most + 1 :]
    lower = max(rest[0] / (long * limit), rest.mean() / long) if rest.size else 0.0
    variance = upper
    if lower < upper:
        found = minimize_scalar(
            lambda noise: _free_energy(squares / (long * noise), noise, ratio, short, limit),
            bounds=(max(lower, upper * 1e-12), upper),
            method="bounded",
            options={"xatol": _TOLERANCE * upper},
        )
        variance = float(found.x)
    return int(np.count_nonzero(squares > long * variance * limit))


def _free_energy(scaled: Vector, noise: float, ratio: float, short: int, limit: float) -> float:
    """Equation 26: the free energy of a noise variance, from `g^2 / (M s^2)` of all singular values."""
    signal, rest = scaled[scaled > limit], scaled[scaled <= limit]
    shifted = signal - (1 + ratio)
    t = 0.5 * (shifted + np.sqrt(np.maximum(np.square(shifted) - 4 * ratio, 0.0)))
    positive = rest[rest > 0]
    energy = positive.sum() - np.log(positive).sum() + (signal - t).sum()
    energy += np.log((t + 1) / signal).sum() + ratio * np.log(t / ratio + 1).sum()
    # Values that are exactly zero still cost the logarithm of the variance.
    return float(energy + (short - len(signal) - len(positive)) * np.log(noise))
