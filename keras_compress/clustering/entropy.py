"""Entropy-constrained clustering: the fewest bits of a Huffman code for the error that is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_compress.clustering.centroids import CentroidClusterer, with_clusterers
from keras_compress.clustering.initialisers import linear, optimal
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.registry import register
from keras_compress.core.selection import Selector, rules_take
from keras_compress.core.transform import WeightTransform

Array = NDArray[np.float64]
Tensor = Any
# Values are taken together in so many groups of neighbours while codes are sought.
GROUPS = 2048
ITERATIONS, HALVINGS = 50, 14
# Numbers of clusters that are begun with, up to so many where the squared error is the least, more evenly spaced. One
# cluster keeps to any bits.
NUMBERS, FEW = (1, 2, 3, 4, 6, 8, 16, 64, 256), 16
# Of the cost, by which the last iteration has to lower it.
LEAST_GAIN = 1e-4
# Values times clusters that are compared at once.
AT_ONCE = 1 << 24
# Bounds of the multiplier, in variances of the weight for each bit.
LEAST, MOST = 1e-6, 1e2


def assignments(values: Array, centroids: Array, shares: Array, multiplier: float) -> NDArray[np.int32]:
    """For each value the cluster of the least error and code length together.

    With p_j the share of the values in cluster j, whose code takes -log2 p_j bits,

        argmin over j of (w - c_j)^2 - multiplier * log2 p_j

    Args:
        values: Weights.
        centroids: One for each cluster.
        shares: p, which add up to 1. A cluster of none is not taken.
        multiplier: What a bit costs, as a squared error.

    >>> assignments(np.array([0.0, 1.0, 1.4]), np.array([0.0, 1.4]), np.array([0.875, 0.125]), 1.0).tolist()
    [0, 0, 0]
    >>> assignments(np.array([0.0, 1.0, 1.4]), np.array([0.0, 1.4]), np.array([0.875, 0.125]), 0.1).tolist()
    [0, 1, 1]

    **Reference**: Choi, El-Khamy and Lee, "Towards the limit of network quantization" (2017), section 5.2, Algorithm 1.
    """
    with np.errstate(divide="ignore"):
        lengths = np.where(shares > 0, -np.log2(shares), np.inf)
    found = np.empty(len(values), np.int32)
    step = max(1, AT_ONCE // len(centroids))
    costs = np.where(np.isfinite(lengths), multiplier * np.where(shares > 0, lengths, 0.0), np.inf)
    for start in range(0, len(values), step):
        part = values[start : start + step, np.newaxis]
        found[start : start + step] = np.argmin(np.square(part - centroids) + costs, axis=1)
    return found


def entropy_of(shares: Array) -> float:
    """Bits a value of the best code for each value by itself.

    >>> entropy_of(np.array([0.5, 0.25, 0.25, 0.0]))
    1.5
    """
    some = shares[shares > 0]
    return float(-(some * np.log2(some)).sum())


def constrained(
    values: Array, counts: Array, centroids: Array, multiplier: float, pinned: int | None = None
) -> tuple[Array, Array]:
    """Centroids and shares of the least `error + multiplier * entropy`, by turns of assigning and taking means.

    Args:
        values: Weights, or means of groups of them.
        counts: How many weights each stands for.
        centroids: Where to begin.
        multiplier: What a bit costs, as a squared error.
        pinned: Cluster whose centroid does not move.

    **Reference**: see `assignments`; Algorithm 1.
    """
    total = counts.sum()
    shares = np.full(len(centroids), 1.0 / len(centroids))
    before = np.inf
    for _ in range(ITERATIONS):
        codes = assignments(values, centroids, shares, multiplier)
        weights = np.bincount(codes, counts, minlength=len(centroids))
        means = np.bincount(codes, counts * values, minlength=len(centroids)) / np.maximum(weights, 1e-300)
        moved = np.where(weights > 0, means, centroids)
        if pinned is not None:
            moved[pinned] = centroids[pinned]
        centroids, shares = moved, weights / total
        error = float((counts * np.square(values - centroids[codes])).sum() / total)
        cost = error + multiplier * entropy_of(shares)
        if before - cost < LEAST_GAIN * cost:
            break
        before = cost
    return centroids, shares


def within_bits(values: Array, number: int, bits: float, zero: bool) -> tuple[Array, Array, float]:
    """Centroids, shares and the multiplier of the least error whose entropy is no more than `bits`.

    Which clusters are left depends on where one begins, and their entropy falls in steps as bits get dearer: numbers of
    clusters up to `number` are tried, each with the multiplier that just keeps to the bits. Clusters of equal shares
    stay as they are however dear bits get: such a number is left out where it takes too many.

    Args:
        values: Weights.
        number: Most clusters, 0 among them where `zero`.
        bits: Bits a weight.
        zero: Whether one centroid is 0 and stays it; it is the last.
    """
    ordered = np.sort(values)
    bounds = np.unique(np.linspace(0, len(ordered), min(GROUPS, len(ordered)) + 1).astype(np.int64))
    counts = np.diff(bounds).astype(np.float64)
    means = np.add.reduceat(ordered, bounds[:-1]) / counts
    variance = float(values.var()) or 1.0
    found = [
        _for_number(means, counts, each, bits, zero, variance)
        for each in sorted({min(each, number) for each in NUMBERS})
    ]
    return min((each for each in found if each), key=lambda each: _error(means, counts, *each))


def _for_number(
    means: Array, counts: Array, number: int, bits: float, zero: bool, variance: float
) -> tuple[Array, Array, float] | None:
    beginning = optimal if number <= FEW else linear
    trained = number - int(zero)
    start = beginning(means, trained).astype(np.float64) if trained else np.empty(0)
    if zero:
        start = np.append(start, 0.0)
    pinned = number - 1 if zero else None
    centroids, shares = constrained(means, counts, start, MOST * variance, pinned)
    best = (centroids, shares, MOST * variance) if entropy_of(shares) <= bits else None
    low, high = np.log(LEAST), np.log(MOST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        multiplier = float(np.exp(middle)) * variance
        centroids, shares = constrained(means, counts, start, multiplier, pinned)
        if entropy_of(shares) <= bits:
            best, high = (centroids, shares, multiplier), middle
        else:
            low = middle
    return best


def _error(values: Array, counts: Array, centroids: Array, shares: Array, multiplier: float) -> float:
    codes = assignments(values, centroids, shares, multiplier)
    return float((counts * np.square(values - centroids[codes])).sum())


@register("weight_transform")
class EntropyClusterer(CentroidClusterer):
    """Few values for each weight, chosen so that a Huffman code of them takes few bits; the values are trained.

    **Forward** `y_i = c[a_i]`, where the codes a and the first centroids c are those of the least error whose entropy
    is no more than `bits`; the codes stay. After pruning 0 is one of the values, not trained, and more weights may
    become 0.
    **Gradient** `dL/dc_j = sum of dL/dy_i over a_i = j`; `dL/dw = 0`.

    Args:
        number_of_clusters: Most distinct values, zero included, 2 to 256.
        bits: Entropy of the values, in bits a weight, in (0, 8].
        preserve_sparsity: Keep zeros although nothing was pruned.

    Raises:
        ValueError: For an argument out of range.

    **Reference**: Choi, El-Khamy and Lee, "Towards the limit of network quantization" (2017), section 5.
    **Deviations**: errors are not weighed by the Hessian. The multiplier is found by bisection, for the bits that were
    asked for; values are taken together in 2,048 groups of neighbours meanwhile.
    """

    def __init__(
        self,
        number_of_clusters: int = 64,
        *,
        bits: float = 2.0,
        preserve_sparsity: bool = False,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(
            number_of_clusters,
            preserve_sparsity=preserve_sparsity,
            fixed_assignments=True,
            name=name,
            trainable=trainable,
        )
        _check_bits(bits)
        self.bits = float(bits)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [{"number_of_clusters": 8, "bits": 1.5}, {"number_of_clusters": 4, "preserve_sparsity": True}]

    def initialize(self, weight: Tensor) -> None:
        values = ops.convert_to_numpy(weight).astype(np.float64).reshape(-1)
        centroids, shares, multiplier = within_bits(values, self.number_of_clusters, self.bits, self.keeps_zeros)
        codes = assignments(values, centroids, shares, multiplier)
        if self.keeps_zeros:
            # 0 is past the last centroid that is trained.
            zeros = (values == 0.0) | (codes == len(centroids) - 1)
            codes = np.where(zeros, self.number_of_clusters - 1, codes).astype(np.int32)
            centroids = centroids[:-1]
        unused = np.zeros(self.centroids.shape[1] - len(centroids))
        self.centroids.assign(np.append(centroids, unused)[np.newaxis])
        self.assignments.assign(codes[np.newaxis])

    def entropy(self) -> float:
        """Of the values now, in bits a weight."""
        codes = ops.convert_to_numpy(self.assignments).reshape(-1)
        return entropy_of(np.bincount(codes, minlength=self.number_of_clusters) / codes.size)

    def summary_values(self) -> dict[str, float]:
        return {**super().summary_values(), "entropy_bits": self.entropy()}

    def get_config(self) -> dict[str, Any]:
        # Of a clusterer's arguments, those that are not given by what this is.
        config = WeightTransform.get_config(self)
        return {
            **config,
            "number_of_clusters": self.number_of_clusters,
            "bits": self.bits,
            "preserve_sparsity": self.preserve_sparsity,
        }


def _check_bits(bits: Any, path: str = "") -> None:
    if isinstance(bits, bool) or not isinstance(bits, (int, float)) or not 0.0 < bits <= 8.0:
        where = f" for layer {path!r}" if path else ""
        raise ValueError(f"Expected `bits` in (0, 8], the entropy of a weight{where}. Received: bits={bits!r}")


@register("entry_point")
@global_state_kept()
@rules_take("bits", "number_of_clusters")
def cluster_by_entropy(
    model: keras.Model,
    bits: float = 2.0,
    number_of_clusters: int = 64,
    *,
    preserve_sparsity: bool | None = None,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
    strict: bool = False,
) -> keras.Model:
    """A copy of the model whose weights have few values that a Huffman code stores in few bits.

    As `kc.cluster_weights`, with another rule for which weight takes which value: a value that many weights have is
    cheaper. Store it with `kc.convert(model, target="tflm", weights_storage="huffman")`. Zeros of pruned weights stay.

    Args:
        model: Built model, plain or made by this library.
        bits: Entropy of a weight's values, in bits a weight, in (0, 8].
        number_of_clusters: Most distinct values, zero counted, 2 to 256; fewer are used where bits are few.
        preserve_sparsity: See `kc.cluster_weights`.
        filters: Which layers: name, `"re:..."`, `"class:..."`, class or callable.
        rules: Exceptions: `{"layers": selector, "skip": True}`, or with `"bits"` or `"number_of_clusters"`.
        strict: Raise where a layer has to be skipped.

    Returns:
        A new model to compile and train: only the values are trained.

    Raises:
        ValueError: For an argument out of range.

    **Reference**: see `EntropyClusterer`.
    """
    _check_bits(bits)

    def make(settings: dict[str, Any], path: str) -> WeightTransform:
        _check_bits(settings["bits"], path)
        kept = bool(preserve_sparsity)
        return EntropyClusterer(settings["number_of_clusters"], bits=settings["bits"], preserve_sparsity=kept)

    settings = {"bits": bits, "number_of_clusters": number_of_clusters}
    return with_clusterers(model, make, settings, preserve_sparsity, filters=filters, rules=rules, strict=strict)
