"""Weight clustering with trained centroids."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_compress.clustering import kernels
from keras_compress.clustering.initialisers import INITIALISERS
from keras_compress.core.existing import Existing, found_in, keeping, share_of_zeros, warn_of
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.kernels import Bound
from keras_compress.core.registry import register
from keras_compress.core.selection import Selector, rules_take
from keras_compress.core.slots import Slot
from keras_compress.core.ste import value_of
from keras_compress.core.transform import WeightTransform
from keras_compress.core.wrapper import Compressed
from keras_compress.graph.model import add_transforms

Tensor = Any
_SAY_SPARSITY = "Give `preserve_sparsity=True` to keep them without this warning, `False` to train them freely."


@register("weight_transform")
class CentroidClusterer(WeightTransform):
    """Replaces each weight by the nearest of a few trained centroids.

    **Forward** `y_i = c[a_i]`, `a_i = argmin_j |w_i - c_j|`; after pruning 0 is one of the clusters, with a centroid
    that is not trained, so that zeros stay zeros.
    **Gradient** `dL/dc_j = sum of dL/dy_i over a_i = j` (Deep Compression, section 3.3); `dL/dw = dL/dy` (straight
    through), so that assignments follow the training. With `fixed_assignments`, as in the paper, `dL/dw = 0`.

    Args:
        number_of_clusters: Most distinct values, zero included, 2 to 256.
        cluster_centroids_init: `"optimal"` (least squared error, exact), `"kmeans++"`, `"density_based"`, `"linear"` or
            `"random"`.
        preserve_sparsity: Keep zeros although nothing was pruned. After a pruner they are always kept.
        cluster_per_channel: One codebook for each output channel.
        fixed_assignments: Keep the first assignments, train the centroids only.
        seed: Seed of the random initialisers.

    Raises:
        ValueError: For an argument out of range.

    **Reference**: Han, Mao and Dally, "Deep Compression" (2016), section 3.
    **Deviations**: assignments follow the straight-through gradient unless `fixed_assignments`.
    """

    preserves = frozenset({"zeros"})

    def __init__(
        self,
        number_of_clusters: int,
        *,
        cluster_centroids_init: str = "optimal",
        preserve_sparsity: bool = False,
        cluster_per_channel: bool = False,
        fixed_assignments: bool = False,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(number_of_clusters, int) or not 2 <= number_of_clusters <= 256:
            raise ValueError(
                "Expected `number_of_clusters` to be an integer from 2 to 256. "
                f"Received: number_of_clusters={number_of_clusters}"
            )
        if cluster_centroids_init not in INITIALISERS:
            raise ValueError(
                f"Expected `cluster_centroids_init` out of {sorted(INITIALISERS)}. "
                f"Received: cluster_centroids_init={cluster_centroids_init!r}"
            )
        self.number_of_clusters = number_of_clusters
        self.cluster_centroids_init = cluster_centroids_init
        self.preserve_sparsity = bool(preserve_sparsity)
        self.cluster_per_channel = bool(cluster_per_channel)
        self.fixed_assignments = bool(fixed_assignments)
        self.seed = int(seed)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [
            {"number_of_clusters": 4},
            {
                "number_of_clusters": 3,
                "cluster_per_channel": True,
                "preserve_sparsity": True,
                "fixed_assignments": True,
            },
        ]

    @property
    def promises(self) -> frozenset[str]:  # type: ignore[override]
        """One codebook for the tensor, or one for each channel."""
        return frozenset({"channel_codebook" if self.cluster_per_channel else "codebook"})

    @property
    def keeps_zeros(self) -> bool:
        """Whether zeros of the incoming weight stay zeros."""
        return self.preserve_sparsity or "zeros" in self.made

    @property
    def _layout(self) -> kernels.Layout:
        return kernels.Layout(self.weight_shape, self.channel_axes) if self.cluster_per_channel else kernels.Layout(())

    def create_variables(self) -> None:
        self.centroids = self.add_weight(
            name="centroids",
            shape=(self._layout.groups, self.number_of_clusters - int(self.keeps_zeros)),
            initializer="zeros",
        )
        if self.fixed_assignments:
            self.assignments = self.add_weight(
                name="assignments",
                shape=(self._layout.groups, math.prod(self.weight_shape) // self._layout.groups),
                dtype="int32",
                initializer="zeros",
                trainable=False,
                aggregation="only_first_replica",
            )

    def initialize(self, weight: Tensor) -> None:
        rows = ops.convert_to_numpy(self._layout.to_matrix(weight)).astype(np.float64)
        initialiser, count = INITIALISERS[self.cluster_centroids_init], self.centroids.shape[1]
        chosen = []
        for row in rows:
            values = row[row != 0.0] if self.keeps_zeros else row
            chosen.append(initialiser(values if values.size else np.zeros(1), count, self.seed))
        self.centroids.assign(np.stack(chosen))
        if self.fixed_assignments:
            self.assignments.assign(self._nearest(rows))

    def _nearest(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Index of the nearest centroid; the one past the last is 0."""
        index = np.empty(rows.shape, np.int32)
        for found, row, centroids in zip(index, rows, ops.convert_to_numpy(self.centroids), strict=True):
            table = np.append(centroids, 0.0) if self.keeps_zeros else centroids
            order = np.argsort(table, kind="stable")
            ordered = table[order]
            found[:] = order[np.searchsorted((ordered[1:] + ordered[:-1]) / 2, row)]
        return index

    def kernel(self) -> Bound:
        centroids = value_of(self.centroids)
        if self.fixed_assignments:
            return kernels.codebook_kernel(self._layout, self.keeps_zeros), (value_of(self.assignments), centroids)
        return kernels.nearest_kernel(self._layout, self.keeps_zeros), (centroids,)

    def summary_values(self) -> dict[str, float]:
        centroids = ops.convert_to_numpy(self.centroids)
        return {"lowest_centroid": float(centroids.min()), "highest_centroid": float(centroids.max())}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "number_of_clusters": self.number_of_clusters,
            "cluster_centroids_init": self.cluster_centroids_init,
            "preserve_sparsity": self.preserve_sparsity,
            "cluster_per_channel": self.cluster_per_channel,
            "fixed_assignments": self.fixed_assignments,
            "seed": self.seed,
        }


@register("entry_point")
@global_state_kept()
@rules_take("number_of_clusters")
def cluster_weights(
    model: keras.Model,
    number_of_clusters: int = 16,
    cluster_centroids_init: str = "optimal",
    preserve_sparsity: bool | None = None,
    cluster_per_channel: bool = False,
    *,
    fixed_assignments: bool = False,
    seed: int = 0,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
    strict: bool = False,
) -> keras.Model:
    """A copy of the model whose weights share few values, trained with them. Zeros of pruned weights stay zeros.

    Args:
        model: Built model, plain or made by this library.
        number_of_clusters: Most distinct values of a weight (of a channel with `cluster_per_channel`), zero counted.
        cluster_centroids_init: See `CentroidClusterer`.
        preserve_sparsity: Keep the zeros of weights that have no pruner, those of a stripped model for one. `None`: of
            sparse weights, with a warning that says which; `False`: of none.
        cluster_per_channel: One codebook for each output channel.
        fixed_assignments: Train the centroids only.
        seed: Seed of the random initialisers.
        filters: Which layers: name, `"re:..."`, `"class:..."`, class or callable.
        rules: Exceptions: `{"layers": selector, "skip": True}` or `{"layers": selector, "number_of_clusters": 32}`.
        strict: Raise where a layer has to be skipped.

    Returns:
        A new model to compile and train.
    """

    def make(settings: dict[str, Any], path: str) -> WeightTransform:
        return CentroidClusterer(
            settings["number_of_clusters"],
            cluster_centroids_init=cluster_centroids_init,
            preserve_sparsity=bool(preserve_sparsity),
            cluster_per_channel=cluster_per_channel,
            fixed_assignments=fixed_assignments,
            seed=seed,
        )

    settings = {"number_of_clusters": number_of_clusters}
    return with_clusterers(model, make, settings, preserve_sparsity, filters=filters, rules=rules, strict=strict)


def with_clusterers(
    model: keras.Model,
    make: Callable[[dict[str, Any], str], WeightTransform],
    settings: Mapping[str, Any],
    preserve_sparsity: bool | None,
    **which: Any,
) -> keras.Model:
    """A copy of the model with a clusterer on each weight, behind what keeps the zeros of those that have no pruner.

    Args:
        model: See `cluster_weights`.
        make: `(settings of a layer, its path) -> clusterer`.
        settings: Those that rules may change.
        preserve_sparsity: See `cluster_weights`.
        **which: `filters`, `rules` and `strict`.
    """
    zeros = PlainZeros(preserve_sparsity)

    def transforms(path: str, before: Compressed, slot: Slot, own: dict[str, Any]) -> list[WeightTransform]:
        clusterer = make(own, path)
        return [*zeros.keeping(path, before, slot), clusterer]

    clustered: keras.Model = add_transforms(model, transforms, settings, **which)
    zeros.say()
    return clustered


@dataclass(frozen=True)
class PlainZeros:
    """Zeros of weights that have no pruner, those of a stripped model for one, while it is clustered.

    Attributes:
        preserve_sparsity: Whether they stay: `None` for those of sparse weights, which is said.
        kept: `(path, what stays)` of each weight so far.
    """

    preserve_sparsity: bool | None
    kept: list[tuple[str, str]] = field(default_factory=list)

    def keeping(self, path: str, wrapper: Compressed, slot: Any) -> list[WeightTransform]:
        """What goes in front of a clusterer."""
        zeros = self._of(wrapper, slot)
        if zeros.sparsity:
            self.kept.append((path, zeros.words()))
        return keeping(zeros, ("sparsity",))

    def say(self) -> None:
        """Warn of what stays without having been asked for."""
        if self.preserve_sparsity is None:
            warn_of("Zeros of sparse weights stay zeros", self.kept, _SAY_SPARSITY)

    def _of(self, wrapper: Compressed, slot: Any) -> Existing:
        if self.preserve_sparsity is False or wrapper.transforms.get(slot.name):
            return Existing()
        if self.preserve_sparsity:
            return Existing(share_of_zeros(np.asarray(slot.variable(wrapper.layer))))
        return replace(found_in(wrapper, slot), values=0)
