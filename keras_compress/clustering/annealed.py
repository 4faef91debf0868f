"""Adaptive codebooks: soft assignments that become hard while the network trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_compress.clustering.centroids import CentroidClusterer, with_clusterers
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.registry import register
from keras_compress.core.selection import Selector, rules_take
from keras_compress.core.ste import value_of
from keras_compress.core.transform import WeightTransform

Tensor = Any
# Of the first and the last hardness: at the first, centroids a spacing apart share a weight; at the last, none.
SOFT, HARD = 1.0, 1000.0
# Weights times centroids that are held at once: 16 MB for each of some five tensors.
AT_ONCE = 1 << 22


@tf.custom_gradient
def mixture(weight: Tensor, table: Tensor, hardness: Tensor, spacing: Tensor) -> tuple[Tensor, Any]:
    """Of each weight the centroids near it, mixed: `y_i = sum over j of p_ij c_j`, see `AnnealedClusterer`.

    Weights are gone through piece by piece, in both directions: shares of all weights at once would take as many times
    the memory of the weights as there are centroids. With a = h / s^2,

        dy_i/dw_i = 2 a (sum over j of p_ij c_j^2 - y_i^2)
        dy_i/dc_j = p_ij (1 + 2 a (w_i - c_j) (c_j - y_i))

    Args:
        weight: Of any shape that is known.
        table: `(centroids,)`.
        hardness: h, not trained.
        spacing: s, not trained.
    """

    def forward(values: Tensor) -> Tensor:
        return tf.linalg.matvec(_shares(values, table, hardness, spacing), table)

    def backward(piece: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        values, upstream = piece
        shares = _shares(values, table, hardness, spacing)
        # From the mean on, so that close centroids far from 0 do not cancel.
        off = table - tf.linalg.matvec(shares, table)[:, tf.newaxis]
        slope = 2.0 * hardness / spacing
        of_weights = slope * tf.reduce_sum(shares * tf.square(off), axis=-1) / spacing
        away = (values[:, tf.newaxis] - table) / spacing
        return upstream * of_weights, tf.linalg.matvec(shares * (1.0 + slope * away * off), upstream, transpose_a=True)

    def gradient(upstream: Tensor) -> tuple[Tensor | None, ...]:
        pieces = _pieces(weight, table), _pieces(upstream, table)
        of_weights, of_table = _each(backward, pieces, (tf.float32, tf.float32))
        return _whole(of_weights, weight), tf.reduce_sum(of_table, axis=0), None, None

    return _whole(_each(forward, _pieces(weight, table), tf.float32), weight), gradient


def _shares(values: Tensor, table: Tensor, hardness: Tensor, spacing: Tensor) -> Tensor:
    return tf.nn.softmax(-hardness * tf.square((values[:, tf.newaxis] - table) / spacing))


def _pieces(weight: Tensor, table: Tensor) -> Tensor:
    """The weight as rows of one length, the last of them filled with zeros."""
    count = weight.shape.num_elements()
    rows = -(-count // max(1, AT_ONCE // int(table.shape[0])))
    length = -(-count // rows)
    return tf.reshape(tf.pad(tf.reshape(weight, [-1]), [[0, rows * length - count]]), [rows, length])


def _each(function: Any, pieces: Any, dtypes: Any) -> Any:
    if keras.tree.flatten(pieces)[0].shape[0] == 1:
        alone = function(keras.tree.map_structure(lambda each: each[0], pieces))
        return keras.tree.map_structure(lambda each: each[tf.newaxis], alone)
    # One after the other: pieces at the same time would take the memory that they are to save.
    return tf.map_fn(function, pieces, fn_output_signature=dtypes, parallel_iterations=1)


def _whole(pieces: Tensor, weight: Tensor) -> Tensor:
    return tf.reshape(tf.reshape(pieces, [-1])[: weight.shape.num_elements()], weight.shape)


@register("weight_transform")
class AnnealedClusterer(CentroidClusterer):
    """A mixture of the centroids near each weight, which becomes the nearest one alone.

    **Forward** In training `y_i = sum over j of p_ij c_j` with

        p_ij = softmax over j of -h(t) (w_i - c_j)^2 / s^2,    h(t) = soft^(1 - t) hard^t

    where s is the first mean spacing of the centroids and t goes from 0 to 1 over `steps` batches. In inference, the
    nearest centroid. After pruning 0 is one of the centroids, not trained, and zeros stay zeros.
    **Gradient** that of the forward pass, of weights and of centroids: both adapt, and weights gather around the
    centroids.

    Args:
        number_of_clusters: Most distinct values, zero included, 2 to 256.
        steps: Batches until assignments are hard, >= 1.
        soft: First hardness, > 0.
        hard: Last hardness, > `soft`.
        cluster_centroids_init: See `CentroidClusterer`.
        preserve_sparsity: Keep zeros although nothing was pruned.
        seed: Seed of the random initialisers.

    Raises:
        ValueError: For an argument out of range.

    **Reference**: Agustsson et al., "Soft-to-hard vector quantization for end-to-end learning compressible
    representations" (2017), sections 3.2 and 3.3.
    **Deviations**: of scalars; the hardness rises as a power of its bounds, by batches, not by the gap between soft and
    hard errors; no term for the entropy.
    """

    draws = True

    def __init__(
        self,
        number_of_clusters: int = 16,
        *,
        steps: int = 1000,
        soft: float = SOFT,
        hard: float = HARD,
        cluster_centroids_init: str = "optimal",
        preserve_sparsity: bool = False,
        seed: int = 0,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(
            number_of_clusters,
            cluster_centroids_init=cluster_centroids_init,
            preserve_sparsity=preserve_sparsity,
            seed=seed,
            name=name,
            trainable=trainable,
        )
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"Expected `steps` as an integer >= 1. Received: steps={steps!r}")
        if not 0.0 < soft < hard < np.inf:
            raise ValueError(f"Expected `soft` > 0 and `hard` above it. Received: soft={soft}, hard={hard}")
        self.steps, self.soft, self.hard = int(steps), float(soft), float(hard)

    @classmethod
    def samples(cls) -> list[dict[str, Any]]:
        return [
            {"number_of_clusters": 4, "steps": 4},
            {"number_of_clusters": 3, "steps": 20, "preserve_sparsity": True},
        ]

    def create_variables(self) -> None:
        super().create_variables()
        self.step = self.add_weight(
            name="step", shape=(), dtype="int32", initializer="zeros", trainable=False, aggregation="only_first_replica"
        )
        self.spacing = self.add_weight(
            name="spacing", shape=(), initializer="ones", trainable=False, aggregation="only_first_replica"
        )

    def initialize(self, weight: Tensor) -> None:
        super().initialize(weight)
        table = np.sort(ops.convert_to_numpy(self._table(value_of(self.centroids))).reshape(-1))
        self.spacing.assign(float(np.ptp(table)) / max(len(table) - 1, 1) or 1.0)

    def _table(self, centroids: Tensor) -> Tensor:
        return tf.concat([centroids, tf.zeros_like(centroids[:, :1])], axis=1) if self.keeps_zeros else centroids

    def hardness(self, step: Tensor) -> Tensor:
        """`h` of a batch, float32."""
        share = ops.minimum(ops.cast(step, "float32") / self.steps, 1.0)
        return ops.exp(float(np.log(self.soft)) * (1.0 - share) + float(np.log(self.hard)) * share)

    def update(self, weight: Tensor) -> list[tuple[keras.Variable, Tensor]]:
        return [(self.step, value_of(self.step) + 1)]

    def call(self, weight: Tensor, training: bool = False) -> Tensor:
        if not training:
            return super().call(weight)
        table = self._table(value_of(self.centroids))[0]
        mixed = mixture(weight, table, self.hardness(value_of(self.step)), value_of(self.spacing))
        return tf.where(weight == 0.0, 0.0, mixed) if self.keeps_zeros else mixed

    def pending(self) -> str | None:
        step = int(value_of(self.step))
        if step >= self.steps:
            return None
        return f"soft assignments stopped at step {step}, before they were hard at step {self.steps}"

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        for name in ("cluster_per_channel", "fixed_assignments"):
            config.pop(name)
        return {**config, "steps": self.steps, "soft": self.soft, "hard": self.hard}


@register("entry_point")
@global_state_kept()
@rules_take("number_of_clusters")
def cluster_softly(
    model: keras.Model,
    number_of_clusters: int = 16,
    *,
    steps: int = 1000,
    soft: float = SOFT,
    hard: float = HARD,
    cluster_centroids_init: str = "optimal",
    preserve_sparsity: bool | None = None,
    seed: int = 0,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
    strict: bool = False,
) -> keras.Model:
    """A copy of the model whose weights come to share few values while it trains, from mixtures of them on.

    Args:
        model: Built model, plain or made by this library. Zeros of pruned weights stay zeros.
        number_of_clusters: Most distinct values of a weight, zero counted.
        steps: Batches until each weight is one value alone; train for longer.
        soft: First hardness; see `AnnealedClusterer`.
        hard: Last hardness.
        cluster_centroids_init: See `CentroidClusterer`.
        preserve_sparsity: See `kc.cluster_weights`.
        seed: Seed of the random initialisers.
        filters: Which layers: name, `"re:..."`, `"class:..."`, class or callable.
        rules: Exceptions: `{"layers": selector, "skip": True}` or `{"layers": selector, "number_of_clusters": 32}`.
        strict: Raise where a layer has to be skipped.

    Returns:
        A new model to compile and train.

    **Reference**: see `AnnealedClusterer`.
    """

    def make(settings: dict[str, Any], path: str) -> WeightTransform:
        return AnnealedClusterer(
            settings["number_of_clusters"],
            steps=steps,
            soft=soft,
            hard=hard,
            cluster_centroids_init=cluster_centroids_init,
            preserve_sparsity=bool(preserve_sparsity),
            seed=seed,
        )

    settings = {"number_of_clusters": number_of_clusters}
    return with_clusterers(model, make, settings, preserve_sparsity, filters=filters, rules=rules, strict=strict)
