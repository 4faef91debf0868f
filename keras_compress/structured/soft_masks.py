"""`mask_channels`: channels set to zero while the model trains; `cut_masked`: then taken out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_compress.core.global_state import global_state_kept
from keras_compress.core.progress import ProgressLine
from keras_compress.core.registry import register, resolve
from keras_compress.core.schedule import Schedule
from keras_compress.core.selection import Selector, rules_take
from keras_compress.core.slots import slots_of
from keras_compress.core.warn import warn
from keras_compress.core.wrapper import Compressed
from keras_compress.graph import graph as keras_graph
from keras_compress.graph.groups import new_group
from keras_compress.graph.model import (
    LayerCopies,
    check_model,
    compressed_layers,
    copied,
    copy_layer,
    rebuild,
    strip_layer,
    warn_of_pending,
)
from keras_compress.graph.parts import path_of, sub_layers
from keras_compress.pruning.pruner import HALF
from keras_compress.structured.channel_graph import ChannelGraph, ChannelGroup, Removed, WeightAxis
from keras_compress.structured.channel_mask import NO_UNIT, ChannelMask, masks_in
from keras_compress.structured.criteria.criterion import Criterion
from keras_compress.structured.dependency import channel_graph
from keras_compress.structured.gates import opened_to_masks, without_gates
from keras_compress.structured.prune import check_choice, checked_criterion, limits_of, warn_of_frozen
from keras_compress.structured.ranking import Pool
from keras_compress.structured.selection import GroupLimits
from keras_compress.structured.surgery import cut, refuse_transforms

# Masks on those that read make a masked channel as good as gone where an activation is not 0 at 0.
MASKED_ROLES = ("in", "out", "through")


@register("entry_point")
@global_state_kept()
@rules_take("max_ratio")
def mask_channels(
    model: keras.Model,
    pruning_schedule: Schedule | Mapping[str, Any] | None = None,
    *,
    criterion: Criterion | str | Mapping[str, Any] = "l1",
    scope: str = "local",
    max_ratio: float = 0.9,
    round_to: int = 8,
    regrow: bool = True,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
) -> keras.Model:
    """A copy of the model in which whole channels become zero while it trains. No callback is needed.

    At each step at which the schedule acts, the lowest channels are chosen. In inference they are zero: the model
    computes what `cut_masked` makes of it. Where something without weights sums over channels (a norm, a product of two
    tensors), a `ChannelGate` is put in front, which `cut_masked` takes out again. In training, with `regrow`, their
    kernels begin again at zero and may come back, until the schedule has ended; without it they are zero for good at
    once.

    Args:
        model: Built model without transforms.
        pruning_schedule: `step -> share of the channels`; `ConstantSparsity(0.5, begin_step=0)` by default.
        criterion: One that weights alone decide on: `"l1"`, `"l2"`, `"fpgm"`, `"bn_gamma"`.
        scope: `"local"`: the share of each group of channels; `"global"`: of all together, by one ranking.
        max_ratio: Largest share to mask in one group.
        round_to: Numbers of channels left are multiples of it; in groups of fewer than four multiples, of its half, a
            quarter, ... of which there are four.
        regrow: Let masked channels come back while the schedule lasts.
        filters: Which layers: name, `"re:..."`, `"class:..."`, class or callable.
        rules: Exceptions: `{"layers": selector, "skip": True}`, or with `"max_ratio"`.

    Returns:
        A new model to compile, train and give to `cut_masked`.

    Raises:
        ValueError: For a criterion that needs data, a rule that matches nothing, a model without a graph, with
            transforms, or whose channels are all frozen.

    **Reference**: see `ChannelMask`.
    """
    criterion = checked_criterion(criterion)
    _check_criterion(criterion)
    check_choice(scope, max_ratio, round_to)
    schedule = resolve("schedule", HALF if pruning_schedule is None else pruning_schedule)
    if not isinstance(schedule, Schedule):
        raise ValueError(
            "Expected a Schedule, such as PolynomialDecay(0.0, 0.5, begin_step=0, end_step=4000). "
            f"Received: pruning_schedule={pruning_schedule!r}"
        )
    if schedule.final_value() > max_ratio:
        raise ValueError(
            f"Expected a schedule that ends with `max_ratio` or less. Received: {schedule.final_value():g}, "
            f"max_ratio={max_ratio}"
        )
    check_model(model)
    refuse_transforms(model)
    graph = opened_to_masks(channel_graph(model))
    limits = limits_of(graph, {"max_ratio": max_ratio}, filters, rules)
    warn_of_frozen(graph)
    settings = {
        "pruning_schedule": schedule,
        "criterion": criterion,
        "group": new_group(model, "channels"),
        "scope": scope,
        "round_to": round_to,
        "regrow": regrow,
    }
    masks = _Masks(graph, limits, criterion, settings)
    with ProgressLine("masking channels"):
        masked: keras.Model = copied(graph.model, LayerCopies(masks.wrapped, inside=False))
    return masked


def _check_criterion(criterion: Criterion) -> None:
    if type(criterion).tensor_scores is Criterion.tensor_scores:
        raise ValueError(
            "Expected a criterion that weights alone decide on: 'l1', 'l2', 'fpgm' or 'bn_gamma'. "
            f"Received: {type(criterion).__name__}; prune in steps with it instead: "
            "`kc.prune_channels(model, criterion=..., data=..., iterations=..., fine_tune=...)`"
        )


class _Masks:
    """Makes the masks of all weights that have to do with the channels of some groups."""

    def __init__(
        self,
        graph: ChannelGraph,
        limits: Mapping[str, GroupLimits],
        criterion: Criterion,
        settings: Mapping[str, Any],
    ) -> None:
        self._settings = settings
        self._axes: dict[int, list[WeightAxis]] = {}
        self._graph, self._criterion = graph, criterion
        groups = [group for group in graph.prunable if group.name in limits]
        # Numbers of the channels, group by group, and for each the group it competes in.
        self._numbers = np.full(graph.unit_count, NO_UNIT, np.int64)
        self._pools: list[Pool] = []
        for group in groups:
            start = sum(pool.width for pool in self._pools)
            self._numbers[group.units] = start + np.arange(len(group))
            self._pools.append(Pool(start, len(group), limits[group.name].max_ratio))
        for each in graph.weights:
            if each.role in MASKED_ROLES and (self._units(each) != NO_UNIT).any():
                self._axes.setdefault(id(each.layer), []).append(each)
        self._check_scored(groups)

    def _units(self, axis: WeightAxis) -> Any:
        return self._numbers[self._graph.units[axis.ids]]

    def _check_scored(self, groups: Sequence[ChannelGroup]) -> None:
        scored = np.zeros(self._graph.unit_count, bool)
        for each in self._graph.weights:
            if self._criterion.reads(each):
                scored[self._graph.units[each.ids]] = True
        left = [group.name for group in groups if not scored[group.units].all()]
        if left:
            raise ValueError(
                f"Expected channels that {type(self._criterion).__name__} can score. Received: {left}, of which it "
                "reads no weight; skip these layers by a rule, or take criterion='l1'"
            )

    def wrapped(self, path: str, layer: keras.layers.Layer) -> keras.layers.Layer:
        """A copy of a layer, with masks where it has channels."""
        copy = copy_layer(layer)
        axes = self._axes.get(id(layer))
        if axes is None:
            return copy
        known = {slot.name: slot.channel_axes for slot in slots_of(layer)}
        transforms: dict[str, list[ChannelMask]] = {}
        # Kernels are scored by what they still read.
        for each in sorted(axes, key=lambda axis: axis.role != "in"):
            name = _slot_name(layer, each.variable)
            known.setdefault(name, (each.axis,))
            transforms.setdefault(name, []).append(self._mask(each))
        return Compressed(copy, transforms, slots=known)

    def _mask(self, axis: WeightAxis) -> ChannelMask:
        units = self._units(axis)
        return ChannelMask(
            units=units.tolist(),
            axis=axis.axis,
            role=axis.role,
            scored=self._criterion.reads(axis),
            pools=[pool for pool in self._pools if pool.holds(units).any()],
            **self._settings,
        )


def _slot_name(layer: keras.layers.Layer, variable: keras.Variable) -> str:
    """The path of attributes by which a layer has a weight."""
    name = _found(layer, variable)
    if name is None:
        raise ValueError(
            f"Expected weights that are attributes of their layers. Received: {variable.path} of "
            f"{type(layer).__name__} {layer.name!r}; leave the layer out by a rule"
        )
    return name


def _found(layer: keras.layers.Layer, variable: Any) -> str | None:
    own = str(variable.name)
    for slot in slots_of(layer):
        if slot.variable(layer) is variable:
            return slot.name
    if getattr(layer, own, None) is variable:
        return own
    for reference, part in sub_layers(layer):
        name = _found(part, variable)
        if name is not None:
            return f"{path_of(reference).replace('/', '.')}.{name}"
    return None


@register("entry_point")
@global_state_kept()
@rules_take()
def cut_masked(
    model: keras.Model,
    *,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
) -> keras.Model:
    """A new, plain model without the channels that `mask_channels` has set to zero; it computes the same.

    Args:
        model: Model made by `mask_channels`, trained.
        filters: Layers whose masked channels are cut; those of others stay, as zeros.
        rules: Exceptions: `{"layers": selector, "skip": True}`.

    Returns:
        A new model, not compiled: to train on, to prune, cluster and quantize, or to convert.

    Raises:
        ValueError: For a model with other transforms, or a rule that matches nothing.
    """
    check_model(model)
    refuse_transforms(model, allowed=ChannelMask)
    warn_of_pending(model)
    plain: keras.Model = rebuild(model, lambda _, layer: strip_layer(layer))
    graph = channel_graph(plain)
    limits = limits_of(graph, {}, filters, rules)
    removed = _masked(graph, model)
    if not removed.any():
        warn(f"No channel of {model.name!r} is masked: it stays as wide as it is.")
    for group in graph.groups:
        removed[group.units] &= group.name in limits
    return without_gates(cut(graph, removed))


def _masked(graph: ChannelGraph, model: keras.Model) -> Removed:
    """The units of `graph` that masks in `model` have set to zero; `graph` is that of the model without wrappers."""
    layers = dict(keras_graph.walk(graph.model))
    ids = {(id(each.variable), each.axis): each.ids for each in graph.weights}
    removed = graph.none_removed()
    for path, wrapper in compressed_layers(model):
        for slot, mask in masks_in(wrapper):
            if mask.role == "out":
                variable = {each.name: each for each, _ in wrapper.items()}[slot].variable(layers[path])
                masked = ~keras.ops.convert_to_numpy(mask.mask)
                removed[graph.units[ids[id(variable), mask.axis % len(variable.shape)][masked]]] = True
    return removed
