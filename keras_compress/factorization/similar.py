"""Channels that are alike next to each other, through a whole model: the same function, in an order that forms like."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.graph.model import LayerCopies, copied
from keras_compress.structured.channel_graph import ChannelGraph, ChannelGroup
from keras_compress.structured.dependency import channel_graph
from keras_compress.structured.permutation import EXACT, alike, put_in_order
from keras_compress.structured.surgery import largest_difference, random_inputs

Array = NDArray[Any]


def with_similar_channels_together(model: keras.Model, role: str) -> keras.Model:
    """A copy in which channels that are made alike, or read alike, are neighbours. It computes the same.

    What makes channels, what acts on each and what reads them are put in the new order together. Channels that have to
    stay, or that are on some axis more often than others, keep theirs.

    Args:
        model: Model with a graph, without transforms in training.
        role: `"out"`: of the weights that make channels, up to a factor; `"in"`: of those that read them.

    Raises:
        ValueError: For a model that would not compute the same.
    """
    graph = channel_graph(copied(model, LayerCopies(inside=False)))
    for group in graph.prunable:
        _arrange(graph, group, role)
    difference = largest_difference(model, graph.model, random_inputs(model, 2, 0))
    if not difference <= EXACT:
        raise ValueError(
            "Expected a model that computes the same with its channels in another order; try `reorder=False`. Received:"
            f" outputs that are {difference:.2g} of the largest away"
        )
    return graph.model


def _arrange(graph: ChannelGraph, group: ChannelGroup, role: str) -> None:
    axes = [each for each in graph.weights if np.isin(graph.units[each.ids], group.units).any()]
    if not all(alike(graph.units[each.ids], group.units) for each in axes):
        return
    kernels = [each for each in axes if each.role == role and len(each.variable.shape) > 1]
    # In the order in which the channels lie.
    lying = next((graph.units[e.ids] for e in kernels if np.isin(graph.units[e.ids], group.units).all()), None)
    if lying is None:
        return
    _, first = np.unique(lying, return_index=True)
    sequence = lying[np.sort(first)]
    rows = []
    for each in kernels:
        units = graph.units[each.ids]
        places = np.concatenate([np.flatnonzero(units == unit) for unit in sequence])
        values = np.moveaxis(keras.ops.convert_to_numpy(each.variable), each.axis, 0)[places]
        rows.append(values.reshape(len(sequence), -1))
    order = paired(np.concatenate(rows, axis=1).astype(np.float64))
    put_in_order(graph, axes, dict(zip(sequence.tolist(), sequence[order].tolist(), strict=True)))


def paired(rows: Array) -> NDArray[np.int64]:
    """An order of vectors in which pairs that are most parallel are neighbours, then pairs of these pairs, and so on.

    >>> paired(np.array([[1.0, 0.0], [0.0, 1.0], [-2.0, 0.1], [0.0, 3.0]])).tolist()
    [1, 3, 0, 2]
    """
    blocks = [[number] for number in range(len(rows))]
    vectors = rows
    left_over: list[int] = []
    while len(blocks) > 1:
        if len(blocks) % 2:
            left_over = blocks[-1] + left_over
            blocks, vectors = blocks[:-1], vectors[:-1]
        pairs = _matched(vectors)
        blocks = [blocks[one] + blocks[other] for one, other in pairs]
        vectors = np.stack([_sum(vectors[one], vectors[other]) for one, other in pairs])
    return np.array([number for block in blocks for number in block] + left_over, np.int64)


def _matched(vectors: Array) -> list[tuple[int, int]]:
    """Pairs, the most parallel first."""
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    near = np.abs((vectors / lengths) @ (vectors / lengths).T)
    np.fill_diagonal(near, -1.0)
    pairs = []
    for _ in range(len(vectors) // 2):
        one, other = sorted(divmod(int(near.argmax()), len(vectors)))
        pairs.append((one, other))
        near[[one, other]] = near[:, [one, other]] = -2.0
    return pairs


def _sum(one: Array, other: Array) -> Array:
    """Of two vectors whose signs do not count."""
    found: Array = one + other if one @ other >= 0 else one - other
    return found
