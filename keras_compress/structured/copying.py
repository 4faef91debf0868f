"""Channels that are there more than once, and what reads them divided by how often: the same function, wider."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.structured.channel_graph import ChannelGraph, Copies, WeightAxis
from keras_compress.structured.channel_ids import Ids
from keras_compress.structured.dependency import channel_graph
from keras_compress.structured.surgery import replicated
from keras_compress.structured.unit_places import is_reader

Positions = NDArray[np.int64]
Pair = tuple[WeightAxis, WeightAxis]
# The id of all channels that no layer makes: constants that a concatenation puts beside others.
_OF_NO_LAYER = -1


def with_copies(graph: ChannelGraph, copies: Copies, noise: float = 0.0, seed: int = 0) -> keras.Model:
    """A new model of the same function in which channels are there more than once.

    What makes a channel, and acts on it, is there again for each copy; what reads c copies of a channel reads each with
    1/c of its weights. Noise is added to those, whose sum over the copies of a channel is 0.

    Args:
        graph: Channel graph of the model.
        copies: For each unit, how often it is there, >= 1. Of a frozen unit, once.
        noise: Standard deviation of the noise, as a share of that of the divided weight.
        seed: Seed of the noise.

    Raises:
        ValueError: Naming the layer, where copies do not stay in an order that the channel graph tells.
    """
    made = replicated(graph, copies)
    pairs = list(zip(graph.weights, channel_graph(made).weights, strict=True))
    origins = _origins(graph, copies, pairs)
    random = np.random.default_rng(seed)
    by_variable: dict[int, list[Pair]] = {}
    for pair in pairs:
        by_variable.setdefault(id(pair[1].variable), []).append(pair)
    for same in by_variable.values():
        value = np.asarray(keras.ops.convert_to_numpy(same[0][0].variable), np.float32)
        for old, new in same:
            positions = _positions(old, new, origins)
            value = np.take(value, positions, axis=old.axis)
            if is_reader(old):
                counts = copies[graph.units[old.ids]]
                value = _shared(value, old.axis, positions, counts, noise, random)
        same[0][1].variable.assign(value)
    return made


def _origins(graph: ChannelGraph, copies: Copies, pairs: Sequence[Pair]) -> tuple[Ids, Ids]:
    """For each id of the old graph and of the new one, the old id that it stands for.

    Copies of a channel stand beside each other where it is made, which tells what becomes of them everywhere else.
    """
    largest = [max((int(pair[n].ids.max()) for pair in pairs if len(pair[n].ids)), default=-1) for n in (0, 1)]
    old_origins, new_origins = (np.full(count + 1, _OF_NO_LAYER) for count in largest)
    for old, new in pairs:
        if old.role == "out":
            old_origins[old.ids] = old.ids
            new_origins[new.ids] = old.ids[graph.kept(old.ids, copies)]
    return old_origins, new_origins


def _positions(old: WeightAxis, new: WeightAxis, origins: tuple[Ids, Ids]) -> Positions:
    """For each index on the new axis, the old one: the k-th place of a copy is the k-th place of its channel.

    So it is for a copy that is there at many places, as behind a flattening or a depth multiplier, in any order.
    """
    first, second = origins[0][old.ids], origins[1][new.ids]
    # Channels of no layer are told apart by their place among all of them.
    copies = np.where(second == _OF_NO_LAYER, _OF_NO_LAYER, new.ids)
    step = len(old.ids) + len(new.ids) + 1
    known, wanted = first * step + _occurrences(first), second * step + _occurrences(copies)
    order = np.argsort(known)
    places = np.minimum(np.searchsorted(known[order], wanted), len(known) - 1)
    found: Positions = order[places]
    if np.any(known[found] != wanted):
        raise ValueError(
            "Expected channels that stay in an order that is known when some are there twice. "
            f"Received: layer {old.path!r}, where they do not: leave out by `rules` what makes its channels"
        )
    return found


def _occurrences(values: Ids) -> Positions:
    """How many equal values stand before each.

    >>> _occurrences(np.array([7, 3, 7, 7, 3])).tolist()
    [0, 0, 1, 2, 1]
    """
    order = np.argsort(values, kind="stable")
    starts = np.searchsorted(values[order], values[order])
    counts = np.empty(len(values), np.int64)
    counts[order] = np.arange(len(values)) - starts
    return counts


def _shared(
    value: NDArray[np.float32], axis: int, positions: Positions, counts: Copies, noise: float, random: Any
) -> NDArray[np.float32]:
    """Weights that read copies: each with its share, and noise that adds up to nothing."""
    rows = np.moveaxis(value.astype(np.float64), axis, 0)
    several = (counts[positions] > 1).reshape(-1, *([1] * (rows.ndim - 1)))
    rows = rows / counts[positions].reshape(several.shape)
    if noise > 0.0 and several.any():
        added = random.normal(0.0, noise * rows.std(), rows.shape) * several
        sums = np.zeros((len(counts), *rows.shape[1:]))
        np.add.at(sums, positions, added)
        rows = rows + added - sums[positions] / counts[positions].reshape(several.shape)
    return np.moveaxis(rows, 0, axis).astype(np.float32)
