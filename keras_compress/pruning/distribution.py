"""How many weights stay in each of several layers, and the masks that keep the highest scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.core.suggest import did_you_mean

Array = NDArray[Any]
DISTRIBUTIONS = ("uniform", "erk")


def layer_sparsities(shapes: Sequence[Sequence[int]], sparsity: float, distribution: str = "uniform") -> list[float]:
    """The sparsity of each weight, for a sparsity of all of them together.

    **Uniform** `s_l = s`. **ERK** (Erdos-Renyi-Kernel) `1 - s_l = e * sum(n_l) / prod(n_l)`, n_l the sizes of the axes
    of a weight and e the number that makes the total right. A weight whose density would be more than 1 is left dense,
    and e found again for the others, until none is.

    Args:
        shapes: Shape of each weight.
        sparsity: Share of zeros among all weights, in [0, 1).
        distribution: `"uniform"` or `"erk"`.

    Returns:
        A sparsity for each weight. By `"erk"` each is `1 - kept / size` with a whole number of weights kept, one at
        least, and the total is the nearest whole number to what is wanted, where one for each weight is not more.

    Raises:
        ValueError: For a sparsity out of [0, 1), or an unknown distribution.

    >>> [round(share, 4) for share in layer_sparsities([(10, 10), (100, 100)], 0.9, "erk")]
    [0.08, 0.9082]

    **Reference**: Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity
    inspired by network science" (2018), equation 3; Evci et al., "Rigging the lottery" (2020), section 3: kernels.
    """
    check_sparsity(sparsity)
    if distribution not in DISTRIBUTIONS:
        hint = did_you_mean(distribution, DISTRIBUTIONS)
        raise ValueError(
            f"Expected `distribution` out of {DISTRIBUTIONS}. Received: distribution={distribution!r}{hint}"
        )
    if distribution == "uniform" or not len(shapes):
        return [float(sparsity)] * len(shapes)
    sizes = np.array([math.prod(shape) for shape in shapes], np.float64)
    total = round((1.0 - sparsity) * float(sizes.sum()))
    kept = _whole(_erk(sizes, np.array([sum(shape) for shape in shapes], np.float64), total), sizes)
    shares: list[float] = (1.0 - kept / sizes).tolist()
    return shares


def _erk(sizes: Array, parts: Array, total: float) -> Array:
    """How many weights each keeps, as real numbers. `parts`: the sum of the axes of each."""
    dense = np.zeros(len(sizes), bool)
    while True:
        rest = parts[~dense].sum()
        factor = (total - sizes[dense].sum()) / rest if rest else 0.0
        over = ~dense & (factor * parts > sizes)
        if not over.any():
            return np.where(dense, sizes, factor * parts)
        dense |= over


def _whole(wanted: Array, sizes: Array) -> Array:
    """Whole numbers of the same sum: rounded down, and one more where the largest parts were cut off.

    >>> _whole(np.array([1.5, 2.3, 4.2]), np.array([9, 9, 9])).tolist()
    [2.0, 2.0, 4.0]
    """
    # What is a whole number but for rounding is taken as it.
    down = np.floor(wanted + 1e-9 * sizes)
    missing = round(float(wanted.sum() - down.sum()))
    down[np.argsort(down - wanted, kind="stable")[: max(missing, 0)]] += 1
    return np.clip(down, 1, sizes)


def check_sparsity(sparsity: Any, name: str = "sparsity") -> None:
    """Refuse what is no share in [0, 1).

    Raises:
        ValueError: Naming the argument.
    """
    number = isinstance(sparsity, (int, float, np.integer, np.floating)) and not isinstance(sparsity, bool)
    if not number or not 0.0 <= sparsity < 1.0:
        raise ValueError(f"Expected `{name}` as a number in [0, 1). Received: {name}={sparsity!r}")


def kept_count(size: int, sparsity: float) -> int:
    """How many of `size` weights stay, one at least: what `keep_highest` keeps.

    >>> kept_count(10, 0.75), kept_count(4, 0.99)
    (2, 1)
    """
    return max(round(size * (1.0 - float(sparsity))), min(size, 1))


def highest(scores: Array, kept: int) -> NDArray[np.bool_]:
    """Mask of the `kept` highest scores; of equal ones, the first.

    Args:
        scores: Array of any shape without NaN.
        kept: How many, 0 to all.

    >>> highest(np.array([[1.0, 3.0], [3.0, 2.0]]), 1).tolist()
    [[False, True], [False, False]]
    """
    flat = np.ravel(scores)
    if kept >= flat.size:
        return np.ones(np.shape(scores), bool)
    if kept <= 0:
        return np.zeros(np.shape(scores), bool)
    threshold = np.partition(flat, flat.size - kept)[flat.size - kept]
    mask: NDArray[np.bool_] = flat > threshold
    mask[np.flatnonzero(flat == threshold)[: kept - int(mask.sum())]] = True
    return mask.reshape(np.shape(scores))


def highest_of_all(scores: Sequence[Array], sparsity: float) -> list[NDArray[np.bool_]]:
    """Masks of the highest scores of several weights, in one ranking of all of them.

    A weight of which nothing is among the highest keeps its highest one: without any, the network would be cut in two.

    >>> masks = highest_of_all([np.array([5.0, 4.0, 3.0]), np.array([1.0, 2.0])], 0.6)
    >>> [mask.tolist() for mask in masks]
    [[True, True, False], [False, True]]
    """
    if not len(scores):
        return []
    flat = np.concatenate([np.ravel(each) for each in scores])
    mask = highest(flat, kept_count(flat.size, sparsity))
    ends = np.cumsum([np.size(each) for each in scores])
    masks = [part.reshape(np.shape(each)) for part, each in zip(np.split(mask, ends[:-1]), scores, strict=True)]
    return [part if part.any() else highest(each, 1) for part, each in zip(masks, scores, strict=True)]
