"""Vectors of weights: how a weight is cut into them, and codebooks that stand for them with the least error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

Array = NDArray[np.float64]
Codes = NDArray[np.int32]
Tensor = Any
# Longest vectors that are chosen by themselves: a 3x3 kernel.
LONGEST = 9
# Of a codebook beside the vectors that it stands for (Stock et al., section 4.1).
MOST_OF_VECTORS = 4
# Directions that the inputs do not have keep a little weight, as a share of the mean.
DAMPING = 1e-6
# Rounds in which each of several codebooks is fitted anew to what the others leave, and steps of k-means in each.
ROUNDS, STEPS = 8, 4


@dataclass(frozen=True)
class Vectors:
    """How a weight lies as rows of vectors: of one output, of neighbouring inputs, the places of a kernel innermost.

    Attributes:
        shape: Shape of the weight.
        channel_axes: Its output-channel axes.
        size: Weights in a vector.

    >>> Vectors((3, 3, 16, 32), (-1,), 9).rows(np.zeros((3, 3, 16, 32))).shape
    (512, 9)
    """

    shape: tuple[int, ...]
    channel_axes: tuple[int, ...]
    size: int

    @property
    def order(self) -> list[int]:
        """Axes: outputs, input channels, places."""
        return [*_outputs(self.shape, self.channel_axes), *_inputs_then_places(self.shape, self.channel_axes)]

    @property
    def count(self) -> int:
        """Number of vectors."""
        return math.prod(self.shape) // self.size

    def rows(self, weight: NDArray[Any]) -> NDArray[Any]:
        """The weight as `(count, size)`."""
        return np.transpose(weight, self.order).reshape(self.count, self.size)

    def weight(self, rows: Tensor) -> Tensor:
        """The weight in its own shape again, from a tensor of rows."""
        moved = tf.reshape(rows, [self.shape[axis] for axis in self.order])
        return tf.transpose(moved, np.argsort(self.order).tolist())

    def rows_of(self, weight: Tensor) -> Tensor:
        """`rows` of a tensor."""
        return tf.reshape(tf.transpose(weight, self.order), [self.count, self.size])


def _outputs(shape: Sequence[int], channel_axes: Sequence[int]) -> list[int]:
    if not channel_axes:
        # Of a table that is looked up in, a vector is of one row.
        return list(range(len(shape) - 1))
    return [axis % len(shape) for axis in channel_axes]


def _inputs_then_places(shape: Sequence[int], channel_axes: Sequence[int]) -> list[int]:
    """The other axes, the last of which has the input channels; of a depthwise kernel all are places."""
    outputs = _outputs(shape, channel_axes)
    others = [axis for axis in range(len(shape)) if axis not in outputs]
    depthwise = len(outputs) > 1 and outputs == list(range(len(shape)))[-len(outputs) :]
    return others if depthwise or not others else [others[-1], *others[:-1]]


def sizes_that_fit(shape: Sequence[int], channel_axes: Sequence[int]) -> list[int]:
    """Numbers of weights that a vector may have: the places of kernels are not torn apart unevenly.

    >>> sizes_that_fit((3, 3, 4, 8), (-1,)), sizes_that_fit((12, 5), (-1,)), sizes_that_fit((3, 3, 8, 1), (-2, -1))
    ([1, 3, 9, 18, 36], [1, 2, 3, 4, 6, 12], [1, 3, 9])
    """
    axes = _inputs_then_places(shape, channel_axes)
    inputs = math.prod(shape[axis] for axis in axes)
    outer = len(axes) > 1 and axes != sorted(axes)
    places = math.prod(shape[axis] for axis in axes[1:]) if outer else 1
    return [n for n in range(1, inputs + 1) if inputs % n == 0 and (n % places == 0 or places % n == 0)]


def usual_size(shape: Sequence[int], channel_axes: Sequence[int]) -> int:
    """The longest vector of at most 9 weights."""
    return max(size for size in sizes_that_fit(shape, channel_axes) if size <= LONGEST)


def stored_bits(codewords: int, size: int, count: int, codebooks: int = 1) -> float:
    """Bits a weight of codes and codebooks of int8 values.

    >>> stored_bits(codewords=256, size=9, count=4096)
    1.3888888888888888
    """
    codes = count * math.ceil(math.log2(max(codewords, 2)))
    return codebooks * (codes + codewords * size * 8) / (count * size)


def codewords_for(bits: float, size: int, count: int, codebooks: int = 1) -> int:
    """The largest power of two of codewords, up to 65,536, that keeps to some bits a weight; 0 where none does.

    >>> codewords_for(1.5, size=9, count=4096), codewords_for(1.0, size=9, count=4096), codewords_for(0.1, 9, 4096)
    (256, 64, 0)
    """
    fitting = [2**n for n in range(1, 17) if stored_bits(2**n, size, count, codebooks) <= bits]
    return max((n for n in fitting if n <= count), default=0)


@dataclass(frozen=True)
class Codebooks:
    """Codebooks, and which codeword of each a vector is the sum of.

    Attributes:
        codewords: `(codebooks, codewords, size)`.
        codes: `(codebooks, vectors)`.
    """

    codewords: Array
    codes: Codes

    def vectors(self) -> Array:
        """What they stand for, `(vectors, size)`."""
        found: Array = np.take_along_axis(self.codewords, self.codes[:, :, np.newaxis], axis=1).sum(axis=0)
        return found


def fitted(vectors: Array, number: int, codebooks: int = 1, gram: Array | None = None, seed: int = 0) -> Codebooks:
    """Codebooks of the least error that k-means finds.

    With inputs x of which `gram` is the mean of `x^T x`, the error of a vector v that c stands for is that of the
    output, `E ||x (c - v)||^2 = (c - v)^T gram (c - v)`; without, `||c - v||^2`. The expectation step assigns each
    vector to the codeword of the least error, the maximisation step gives a codeword the mean of its vectors, which is
    best whatever the gram matrix is. Of several codebooks each is fitted to what those before it leave, then, in turn,
    to what all others leave.

    Args:
        vectors: `(count, size)`.
        number: Codewords of each codebook, no more than there are vectors.
        codebooks: How many, whose codewords are added.
        gram: `(size, size)`, symmetric.
        seed: Of the start.

    **Reference**: Stock et al., "And the bit goes down: revisiting the quantization of neural networks" (2020),
    section 3.2; of several: Babenko and Lempitsky, "Additive quantization for extreme vector compression" (2014).
    **Deviations**: the start is k-means++. Codes of several codebooks are found one at a time, with the others held.
    """
    root = np.eye(vectors.shape[1]) if gram is None else _root(gram)
    codewords = np.zeros((codebooks, number, vectors.shape[1]))
    codes = np.zeros((codebooks, len(vectors)), np.int32)
    rest = vectors.astype(np.float64)
    for each in range(codebooks):
        codewords[each], codes[each] = _k_means(rest, number, root, seed + each)
        rest = rest - codewords[each][codes[each]]
    found = Codebooks(codewords, codes)
    for _ in range(ROUNDS if codebooks > 1 else 0):
        _fit_in_turn(vectors, found, root)
    return found


def _fit_in_turn(vectors: Array, found: Codebooks, root: Array) -> None:
    for codewords, codes in zip(found.codewords, found.codes, strict=True):
        rest = vectors - found.vectors() + codewords[codes]
        codewords[:], codes[:] = _k_means(rest, len(codewords), root, 0, codewords.copy())


def _root(gram: Array) -> Array:
    """R with `v gram v^T = ||v R||^2`."""
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    least = DAMPING * max(float(np.trace(gram)) / len(gram), np.finfo(np.float64).tiny)
    root: Array = vectors * np.sqrt(np.maximum(values, least))
    return root


def _k_means(vectors: Array, number: int, root: Array, seed: int, start: Array | None = None) -> tuple[Array, Codes]:
    """Codewords and codes; an empty cluster takes the vector that is farthest from its own."""
    from sklearn.cluster import KMeans  # scikit-learn is slow to import

    seen = vectors @ root
    distinct = np.unique(seen, axis=0)
    if start is None and len(distinct) <= number:
        return _of_few(vectors, seen, distinct, number)
    how: dict[str, Any] = {"init": "k-means++"} if start is None else {"init": start @ root, "max_iter": STEPS}
    codes = KMeans(number, n_init=1, random_state=seed, **how).fit(seen).labels_.astype(np.int32)
    return _means(vectors, codes, number, start), codes


def _of_few(vectors: Array, seen: Array, distinct: Array, number: int) -> tuple[Array, Codes]:
    """No more distinct vectors than codewords: each has its own."""
    codes = np.unique(seen, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int32)
    return _means(vectors, codes, number, None), codes


def _means(vectors: Array, codes: Codes, number: int, before: Array | None) -> Array:
    sums = np.zeros((number, vectors.shape[1]))
    np.add.at(sums, codes, vectors)
    counts = np.bincount(codes, minlength=number)[:, np.newaxis]
    return np.where(counts > 0, sums / np.maximum(counts, 1), 0.0 if before is None else before)


def error_of(vectors: Array, codebooks: Codebooks, gram: Array | None = None) -> float:
    """Sum of the errors that `fitted` minimises."""
    difference = codebooks.vectors() - vectors
    return float(np.square(difference @ (np.eye(vectors.shape[1]) if gram is None else _root(gram))).sum())
