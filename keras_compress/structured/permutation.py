"""Channels of a model in another order, the same function, in which m zeros in every n inputs cost less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_compress.core.global_state import global_state_kept
from keras_compress.core.history import Record, keep
from keras_compress.core.progress import ProgressLine
from keras_compress.core.registry import register
from keras_compress.core.selection import Selector, rules_take
from keras_compress.core.slots import slots_of
from keras_compress.graph.model import check_model, rebuild
from keras_compress.pruning.patterns import check_m_by_n
from keras_compress.pruning.permutation import best_order, kept_magnitude
from keras_compress.structured.channel_graph import ChannelGraph, ChannelGroup, WeightAxis
from keras_compress.structured.dependency import channel_graph
from keras_compress.structured.prune import limits_of
from keras_compress.structured.surgery import largest_difference, random_inputs, refuse_transforms

Array = NDArray[Any]
Units = NDArray[np.int64]
# Largest relative difference of the outputs that another order of sums explains.
EXACT = 1e-4


@dataclass(frozen=True)
class PermutedGroup:
    """What was done to channels that belong together.

    Attributes:
        name: Path of the first layer that makes them.
        readers: Paths of the layers that read them, whose magnitudes count.
        before: Share of these layers' magnitude that m zeros in every n inputs leave, in the order as it was.
        after: The same in the new order.
        note: Why nothing was done, or empty.
    """

    name: str
    readers: tuple[str, ...] = ()
    before: float = 0.0
    after: float = 0.0
    note: str = ""

    def __str__(self) -> str:
        if self.note:
            return f"{self.name}: left as it is: {self.note}"
        return f"{self.name}, read by {', '.join(self.readers)}: {self.before:.2%} -> {self.after:.2%} of the magnitude"


@dataclass(frozen=True)
class PermutationRecord(Record):
    """What `permute_channels` did to a model, kept with it until it is saved.

    Attributes:
        m_by_n: For which pattern.
        groups: Each group of channels.
    """

    m_by_n: tuple[int, int]
    groups: tuple[PermutedGroup, ...]

    def lines(self) -> list[str]:
        """A line for each group."""
        zeros, group = self.m_by_n
        return [f"Permuted for {zeros} zeros in {group}: {each}" for each in self.groups]


@register("entry_point")
@global_state_kept()
@rules_take()
def permute_channels(
    model: keras.Model,
    sparsity_m_by_n: Sequence[int] = (2, 4),
    *,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
) -> keras.Model:
    """A copy of the model with channels in an order in which m zeros in every n inputs leave more magnitude.

    It computes what the model does: what makes channels, what acts on each of them, and what reads them are put in the
    new order together, through additions, BatchNormalization, flattening and concatenation. Prune it then with the
    same `sparsity_m_by_n`, by `prune_one_shot` or `prune_low_magnitude`. `kc.summary` tells what each group gained.

    Args:
        model: Built model in which nothing is in training; a subclassed one becomes a Functional model of what its
            `call` runs.
        sparsity_m_by_n: `(m, n)`: m zeros in every n consecutive inputs.
        filters: Layers that make channels: name, `"re:..."`, `"class:..."`, class or callable.
        rules: Exceptions: `{"layers": selector, "skip": True}`.

    Returns:
        A new, plain model, not compiled.

    Raises:
        ValueError: For a pattern that is none, a rule that matches nothing, a model with transforms, or one whose
            channels all have to stay.

    **Reference**: Pool and Yu, "Channel permutations for N:M sparsity" (2021). **Deviations**: one order for all layers
    that read the same channels, so that none has to be permuted at run time; see `best_order` for the search.
    """
    pattern = check_m_by_n(sparsity_m_by_n)
    check_model(model)
    graph = channel_graph(model)
    if graph.model is model:
        graph = channel_graph(rebuild(model))
    refuse_transforms(graph.model)
    chosen = limits_of(graph, {}, filters, rules)
    inputs = random_inputs(graph.model, 2, 0)
    before = channel_graph(rebuild(graph.model)).model
    groups = [group for group in graph.prunable if group.name in chosen]
    with ProgressLine("permuting channels", total=len(groups)) as line:
        found = []
        for group in groups:
            found.append(_permute(graph, group, (pattern[0], pattern[1])))
            line.advance()
    difference = largest_difference(before, graph.model, inputs)
    if not difference <= EXACT:
        raise ValueError(
            "Expected a model that computes the same with its channels in another order. Received: outputs that are "
            f"{difference:.2g} of the largest away; leave layers out with `rules`"
        )
    return keep(graph.model, PermutationRecord((pattern[0], pattern[1]), tuple(found)))


def _permute(graph: ChannelGraph, group: ChannelGroup, m_by_n: tuple[int, int]) -> PermutedGroup:
    """Put the channels of a group in the best order that is found."""
    if len(group) % m_by_n[1]:
        return PermutedGroup(group.name, note=f"its {len(group)} channels are no multiple of {m_by_n[1]}")
    axes = [each for each in graph.weights if np.isin(graph.units[each.ids], group.units).any()]
    readers, sequence = _readers(graph, group, axes, m_by_n[1])
    if not readers:
        return PermutedGroup(group.name, note=f"nothing reads its channels in whole groups of {m_by_n[1]}")
    if not all(alike(graph.units[each.ids], group.units) for each in axes):
        return PermutedGroup(group.name, note="its channels do not all have the same number of weights")
    magnitudes = np.concatenate([_rows(graph, each, sequence) for each in readers], axis=1)
    order = best_order(magnitudes, m_by_n)
    total = float(magnitudes.sum(dtype=np.float64)) or 1.0
    shares = [kept_magnitude(rows, m_by_n) / total for rows in (magnitudes, magnitudes[order])]
    put_in_order(graph, axes, dict(zip(sequence.tolist(), sequence[order].tolist(), strict=True)))
    return PermutedGroup(group.name, tuple(dict.fromkeys(each.path for each in readers)), shares[0], shares[1])


def put_in_order(graph: ChannelGraph, axes: Sequence[WeightAxis], taken: Mapping[int, int]) -> None:
    """Give units the weights of others, on all axes that they are on.

    Args:
        graph: Channel graph of a model, whose weights change.
        axes: All weights with axes of these units.
        taken: Unit -> the one whose weights it takes.
    """
    for each in axes:
        source = _sources(graph.units[each.ids], taken)
        each.variable.assign(np.take(keras.ops.convert_to_numpy(each.variable), source, axis=each.axis))


def _readers(
    graph: ChannelGraph, group: ChannelGroup, axes: Sequence[WeightAxis], size: int
) -> tuple[list[WeightAxis], Units]:
    """The kernels that read all channels of a group, one after the other, and their order."""
    found: list[WeightAxis] = []
    sequence: Units = np.zeros(0, np.int64)
    for each in axes:
        if each.role != "in" or not _is_innermost(each):
            continue
        units = graph.units[each.ids]
        places = np.flatnonzero(np.isin(units, group.units))
        starts = places[:: len(group)]
        if len(places) % len(group) or len(units) % size or np.any(starts % size):
            continue
        runs = units[places].reshape(-1, len(group))
        in_line = np.array_equal(places.reshape(runs.shape), starts[:, np.newaxis] + np.arange(len(group)))
        first = sequence if len(sequence) else runs[0]
        if in_line and len(np.unique(first)) == len(group) and np.all(runs == first):
            found.append(each)
            sequence = first
    return found, sequence


def _is_innermost(each: WeightAxis) -> bool:
    """Whether consecutive inputs, as N:M pruning counts them, are consecutive along this axis."""
    for slot in slots_of(each.layer):
        if slot.variable(each.layer) is each.variable:
            rank = len(each.variable.shape)
            outputs = [axis % rank for axis in slot.channel_axes]
            inputs = [axis for axis in range(rank) if axis not in outputs]
            return bool(inputs) and inputs[-1] == each.axis
    return False


def alike(units: NDArray[Any], group: Units) -> bool:
    """Whether each unit of a group is on an axis equally often."""
    counts = np.bincount(units[np.isin(units, group)], minlength=int(group.max()) + 1)[group]
    return bool(np.all(counts == counts[0]))


def _rows(graph: ChannelGraph, each: WeightAxis, sequence: Units) -> Array:
    """Magnitudes of a kernel, one row for each channel of the sequence."""
    values = np.moveaxis(np.abs(keras.ops.convert_to_numpy(each.variable)), each.axis, 0)
    places = np.flatnonzero(np.isin(graph.units[each.ids], sequence))
    runs = values[places].reshape(-1, len(sequence), int(np.prod(values.shape[1:])))
    rows: Array = runs.transpose(1, 0, 2).reshape(len(sequence), -1)
    return rows


def _sources(units: NDArray[Any], taken: Mapping[int, int]) -> NDArray[np.int64]:
    """From where each index of an axis takes its weights: the k-th place of a unit from the k-th of the other."""
    places: dict[int, list[int]] = {}
    for place, unit in enumerate(units.tolist()):
        places.setdefault(unit, []).append(place)
    source = np.arange(len(units))
    for unit, other in taken.items():
        if unit in places:
            source[places[unit]] = places[other]
    return source
