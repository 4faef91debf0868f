"""Merge channels that compute nearly the same: one stays, and what reads it gets the sum of their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core.global_state import global_state_kept
from keras_compress.core.progress import ProgressLine
from keras_compress.core.registry import register
from keras_compress.core.selection import Selector, rules_take, settings_by_path
from keras_compress.graph.finite import check_finite
from keras_compress.graph.model import LayerCopies, check_model, copied
from keras_compress.structured.channel_graph import ChannelGraph, ChannelGroup
from keras_compress.structured.dependency import channel_graph
from keras_compress.structured.hashing import refuse_transforms
from keras_compress.structured.opened import opened
from keras_compress.structured.surgery import cut
from keras_compress.structured.unit_places import (
    Descriptions,
    Places,
    UnitPlaces,
    Values,
    is_reader,
    rows_of,
    summed_without_weights,
)

# Distances of equal channels, from rounding alone.
ROUNDING = 1e-6
# Columns of a matrix that are multiplied at once, in float64.
COLUMNS_AT_ONCE = 4096
Distances = NDArray[np.float64]


@register("entry_point")
@global_state_kept()
@rules_take("tolerance")
def merge_channels(
    model: keras.Model,
    tolerance: float = 0.0,
    *,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
) -> keras.Model:
    """RED's second step: of channels whose weights are nearly the same, one stays. No data is needed.

    With `w_i` all the weights and the bias that make channel i of a layer, a BatchNormalization behind it folded in,
    channels i and j of n are merged if

        d(i, j) = ||w_i - w_j|| / sqrt(1/n * sum_k ||w_k||^2) <= tolerance

    and then, in each layer that reads them, `v_i <- v_i + v_j`. As f(w_i x) = f(w_j x) for equal channels whatever the
    activation f, v_i f(w_i x) + v_j f(w_j x) = (v_i + v_j) f(w_i x). Where several layers make a channel together (a
    residual sum) or act on it alone (a depthwise convolution), it has to hold for each of them. Layers are gone through
    from the inputs on, and compared as they are after the merges before them.

    Args:
        model: Built model without transforms in training; a subclassed one becomes a Functional model of what its
            `call` runs.
        tolerance: Largest distance, >= 0, in which unrelated channels are about 1.4 apart. 0 merges equal channels,
            without any loss.
        filters: Which layers: name, `"re:..."`, `"class:..."`, class or callable.
        rules: Exceptions: `{"layers": selector, "skip": True}`, or with `"tolerance"`.

    Returns:
        A new model, not compiled, and as wide as before where nothing could be merged. Channels that have to stay, or
        that something without weights sums over (a product of two tensors), are left alone.

    Raises:
        ValueError: For a negative tolerance, a model without a graph, or one with transforms in training.

    **Reference**: Yvinec et al., "RED: Looking for redundancies for data-free structured compression of deep neural
    networks" (2021), merging of similar neurons.
    **Deviations**: a bound on the distance, relative to the layer, not a share of the closest neurons of each layer. Of
    merged channels the one that is read with the largest weights stays, as it is: the error of replacing j by i is at
    most `||v_j|| * ||w_j - w_i||` for inputs of norm 1 and a ReLU. Each is merged into the nearest of those that stay,
    which is within the tolerance of it.
    """
    check_model(model)
    refuse_transforms(model)
    check_finite(model)
    copy: keras.Model = copied(opened(model), LayerCopies(inside=False))
    graph = channel_graph(copy)
    tolerances = _tolerances(graph, tolerance, filters, rules)
    merging = _Merging(graph)
    with ProgressLine("merging channels", len(tolerances)) as line:
        for group in graph.prunable:
            if group.name in tolerances:
                merging.merge(group, tolerances[group.name])
                line.advance()
        merging.values.write()
        return cut(graph, merging.removed)


def _tolerances(
    graph: ChannelGraph, tolerance: float, filters: Selector | None, rules: Sequence[Mapping[str, Any]] | None
) -> dict[str, float]:
    """Tolerances of the groups to work on. A group is left alone where one of its layers is."""
    layers = {each.path: each.layer for each in graph.weights if each.role == "out"}
    listed = [(path, layers[path]) for group in graph.prunable for path in group.layers]
    settings = settings_by_path(listed, {"tolerance": tolerance}, filters, rules)
    for each in settings.values():
        if not each["tolerance"] >= 0.0:
            raise ValueError(f"Expected `tolerance` >= 0. Received: tolerance={each['tolerance']}")
    return {
        group.name: min(float(settings[path]["tolerance"]) for path in group.layers)
        for group in graph.prunable
        if all(path in settings for path in group.layers)
    }


class _Merging:
    """Merges group by group; collects what is to be cut, and the new weights."""

    def __init__(self, graph: ChannelGraph) -> None:
        self.graph = graph
        self.removed = graph.none_removed()
        self.values = Values()
        self._places = UnitPlaces(graph)
        self._descriptions = Descriptions(graph.model, self.values)
        self._summed = summed_without_weights(graph)

    def merge(self, group: ChannelGroup, tolerance: float) -> None:
        """Merge what is near enough in a group."""
        found = [(each, self._places.on(each, group)) for each in self.graph.weights]
        axes = [(each, places) for each, places in found if places is not None and places.size]
        readers = [(each, places) for each, places in axes if is_reader(each)]
        alike = all(places is not None for _, places in found)
        if not alike or not readers or np.any(self._summed[group.units]):
            return
        blocks = self._descriptions.blocks([pair for pair in axes if not is_reader(pair[0])])
        apart = np.max([distances(block) for block in blocks], axis=0)
        rows = [rows_of(self.values.of(each.variable), each.axis, places) for each, places in readers]
        strength = np.sum([np.square(each, dtype=np.float64).sum(axis=(1, 2)) for each in rows], axis=0)
        kept = representatives(apart, max(tolerance, ROUNDING), np.argsort(-strength, kind="stable"))
        merged = np.flatnonzero(kept != np.arange(len(group)))
        for each, places in readers:
            _add(np.moveaxis(self.values.of(each.variable), each.axis, 0), places[kept[merged]], places[merged])
        self.removed[group.units[merged]] = True


def _add(value: NDArray[np.float32], to: Places, of: Places) -> None:
    """Add rows to others, and set them to zero."""
    np.add.at(value, to.ravel(), value[of.ravel()])
    value[of.ravel()] = 0.0


def distances(vectors: NDArray[np.float32]) -> Distances:
    """Distances of all rows from each other, divided by the root of the mean of their squared norms.

    >>> distances(np.float32([[3, 0], [0, 3], [3, 0]])).round(4).tolist()
    [[0.0, 1.4142, 0.0], [1.4142, 0.0, 1.4142], [0.0, 1.4142, 0.0]]
    """
    products = np.zeros((len(vectors), len(vectors)))
    total = 0.0
    for start in range(0, vectors.shape[1], COLUMNS_AT_ONCE):
        part = vectors[:, start : start + COLUMNS_AT_ONCE].astype(np.float64)
        total += float(np.square(part).sum())
        # Far from the origin, differences would drown in rounding.
        part -= part.mean(axis=0)
        products += part @ part.T
    squares = np.diag(products)
    apart = np.maximum(squares[:, None] + squares - 2.0 * products, 0.0)
    return np.sqrt(apart * len(vectors) / total) if total > 0.0 else apart


def representatives(apart: Distances, tolerance: float, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each item, the nearest of those that stay. In `order`, what is near to none that stays so far stays too.

    >>> apart = np.abs(np.subtract.outer([0.0, 2.0, 3.0], [0.0, 2.0, 3.0]))
    >>> [representatives(apart, 2.0, np.array(order)).tolist() for order in ([0, 1, 2], [1, 0, 2])]
    [[0, 2, 2], [1, 1, 1]]
    """
    free = np.ones(len(apart), bool)
    staying = []
    for item in order:
        if free[item]:
            staying.append(item)
            free &= apart[item] > tolerance
            free[item] = False
    nearest: NDArray[np.int64] = np.array(staying)[np.argmin(apart[:, staying], axis=1)]
    nearest[staying] = staying
    return nearest
