"""Outlier channel splitting: channels that are read with outliers become two, each read with half of the weight."""

from __future__ import annotations

import heapq
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core.batch_norm import takes_factors
from keras_compress.core.global_state import global_state_kept
from keras_compress.graph import graph as keras_graph
from keras_compress.post_training.fold_batch_norms import folded
from keras_compress.post_training.record import NotApplicable, Record, carry, record_of
from keras_compress.structured.channel_graph import ChannelGraph, ChannelGroup, Copies, WeightAxis
from keras_compress.structured.dependency import channel_graph
from keras_compress.structured.surgery import largest_difference, random_inputs, replicated
from keras_compress.structured.unit_places import is_reader

Vector = NDArray[np.float64]
# Of outputs, relative to the largest: more than float32 rounding is a mistake.
LARGEST_DIFFERENCE = 1e-3


@global_state_kept()
def split_channels(model: keras.Model, ratio: float = 0.05, bits: int = 8, per_channel: bool = False) -> keras.Model:
    """The same function with the channels that have the largest weights behind them split in two.

    A channel that is there twice may be read with `w1 + w2 = w`. With the step d of the quantized weights,

        w1 = (w - d / 2) / 2,    w2 = (w + d / 2) / 2,

    whose rounded values add up to that of w. The largest weight of the layer is half as large then, and so are the
    steps of all others. One channel after the other is split, always that with the largest weight left.

    It makes layers wider, by `ratio`: a model of more multiplications and bytes. It pays where weights have one scale
    for a tensor, and few bits.

    Args:
        model: Plain built model.
        ratio: Channels more, as a share of a layer's, in (0, 1].
        bits: Of the weights, 2 to 8.
        per_channel: Whether they have one scale for each output channel.

    Raises:
        ValueError: For arguments out of range, a quantized model, or one in which no channel may be split
            (`NotApplicable`).

    **Reference**: Zhao et al., "Improving neural network quantization without retraining using outlier channel
    splitting" (2019), sections 3.3 and 3.4.
    **Deviations**: where several layers read a channel, the one in which it is the largest beside all others decides.
    """
    if not 0.0 < ratio <= 1.0 or bits not in range(2, 9):
        raise ValueError(f"Expected `ratio` in (0, 1] and `bits` from 2 to 8. Received: ratio={ratio}, bits={bits}")
    model = folded(model)
    graph = channel_graph(model)
    copies = np.ones(graph.unit_count, np.int64)
    for group in graph.prunable:
        if _splits(graph, group):
            copies[group.units] = _copies(_outliers(graph, group), int(np.ceil(ratio * len(group))))
    if not np.any(copies > 1):
        raise NotApplicable(
            "Expected a model with channels between weighted layers, outputs left out, that could be there twice. "
            f"Received: {model.name!r}, which has none"
        )
    made = replicated(graph, copies)
    _halve(graph, made, copies, 2 ** (bits - 1) - 1, per_channel)
    if largest_difference(model, made, random_inputs(model, 2, seed=0)) > LARGEST_DIFFERENCE:
        raise NotApplicable(
            "Expected channels that stay in order when some are there twice. "
            f"Received: {model.name!r}, which lays them out anew"
        )
    record = record_of(model)
    statistics = dict(record.statistics)
    for each in graph.weights:
        if each.path in statistics and each.variable is getattr(each.layer, "bias", None):
            statistics[each.path] = statistics[each.path].taken(graph.kept(each.ids, copies))
    note = f"Outlier channels split: {int((copies - 1).sum())} of {len(copies)}"
    return carry(made, Record(statistics, record.notes).noted(note))


def _splits(graph: ChannelGraph, group: ChannelGroup) -> bool:
    """Whether weighted sums alone make and read the channels of a group."""
    units = np.zeros(graph.unit_count, bool)
    units[group.units] = True
    touched = [each for each in graph.weights if units[graph.units[each.ids]].any()]
    weighted = all(takes_factors(each.layer) or each.role in ("through", "statistic") for each in touched)
    # Copies stand beside each other. Of channels with several outputs each, the outputs of one stand together.
    widths = {getattr(each.layer, name, 1) for each in touched for name in ("depth_multiplier", "groups")}
    readers = {id(each.layer) for each in touched if each.role == "in"}
    readings = [each for each in graph.readings if units[graph.units[each.ids]].any()]
    return bool(readers) and weighted and widths == {1} and all(id(each.operation) in readers for each in readings)


def _outliers(graph: ChannelGraph, group: ChannelGroup) -> Vector:
    """For each unit of a group, the largest weight that it is read with, relative to the layer's largest."""
    largest = np.zeros(graph.unit_count)
    for axis in filter(is_reader, graph.weights):
        weight = np.abs(np.asarray(keras.ops.convert_to_numpy(axis.variable), np.float64))
        peaks = weight.max(axis=tuple(a for a in range(weight.ndim) if a != axis.axis))
        np.maximum.at(largest, graph.units[axis.ids], peaks / max(peaks.max(), np.finfo(np.float64).tiny))
    return largest[group.units]


def _copies(peaks: Vector, more: int) -> Copies:
    """How often each channel is to be there: the one with the largest weight left is split, again and again.

    >>> _copies(np.array([8.0, 3.0, 1.0]), 3).tolist()
    [4, 1, 1]
    """
    copies = np.ones(len(peaks), np.int64)
    heap = [(-float(peak), number) for number, peak in enumerate(peaks)]
    heapq.heapify(heap)
    for _ in range(more):
        peak, number = heap[0]
        if peak == 0.0:
            break
        # A split halves one copy, the largest, as in `parts`: 3 copies have 1/2, 1/4 and 1/4 of a weight.
        heapq.heapreplace(heap, (peak / 2, number))
        heapq.heappush(heap, (peak / 2, number))
        copies[number] += 1
    return copies


def parts(count: int) -> tuple[Vector, Vector]:
    """Factors and offsets, in steps, of a weight that `count` copies of a channel share: those add up to 1, these to 0.

    >>> [part.tolist() for part in parts(2)]
    [[0.5, 0.5], [-0.25, 0.25]]
    """
    found = [(1.0, 0.0)]
    for _ in range(count - 1):
        factor, offset = found.pop(0)
        found += [(factor / 2, offset / 2 - 0.25), (factor / 2, offset / 2 + 0.25)]
    factors, offsets = np.array(found).T
    return factors, offsets


def _halve(graph: ChannelGraph, made: keras.Model, copies: Copies, most: int, per_channel: bool) -> None:
    """Give the copies of a channel their shares of the weights that they are read with."""
    layers = dict(keras_graph.walk(made))
    for axis in filter(is_reader, graph.weights):
        counts = copies[graph.units[axis.ids]]
        if np.all(counts == 1):
            continue
        shares = [parts(int(count)) for count in counts]
        shape = [-1 if a == axis.axis else 1 for a in range(len(axis.variable.shape))]
        factors, offsets = (np.concatenate([share[n] for share in shares]).reshape(shape) for n in (0, 1))
        variable = _same_variable(layers[axis.path], axis)
        halved = np.asarray(keras.ops.convert_to_numpy(variable), np.float64) * factors
        variable.assign(halved + offsets * _steps(halved, axis, most, per_channel))


def _same_variable(layer: Any, axis: WeightAxis) -> Any:
    places = zip(axis.layer.variables, layer.variables, strict=True)
    return next(new for old, new in places if old is axis.variable)


def _steps(weight: Vector, axis: WeightAxis, most: int, per_channel: bool) -> Vector | float:
    if not per_channel:
        return float(np.abs(weight).max()) / most
    transposed = "Transpose" in type(axis.layer).__name__
    own = (-2 if transposed else -1) % weight.ndim
    largest: Vector = np.abs(weight).max(axis=tuple(a for a in range(weight.ndim) if a != own), keepdims=True)
    return largest / most
