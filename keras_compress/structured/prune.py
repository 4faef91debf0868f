"""`prune_channels`: from a model to a smaller one, at once, step by step, or down to a budget."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from keras_compress.core.budget import Budget
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.progress import ProgressLine
from keras_compress.core.registry import register, resolve
from keras_compress.core.schedule import Schedule
from keras_compress.core.selection import Selector, rules_take, settings_by_path
from keras_compress.core.warn import warn
from keras_compress.data.examples import Examples
from keras_compress.graph.model import by_message, check_model
from keras_compress.structured.channel_budget import ChannelBudget
from keras_compress.structured.channel_graph import OUTPUT, ChannelGraph, ChannelGroup, Removed
from keras_compress.structured.channel_ids import Ids
from keras_compress.structured.criteria.criterion import Criterion, Scores
from keras_compress.structured.dependency import channel_graph
from keras_compress.structured.filling import Filling
from keras_compress.structured.selection import GroupLimits, Selection
from keras_compress.structured.surgery import cut, cut_error

# Largest relative difference that float rounding explains.
EXACT = 1e-4
DEFAULT_RATIO = 0.5
FineTune = Callable[[keras.Model], Any]


@register("entry_point")
@global_state_kept()
@rules_take("ratio", "max_ratio")
def prune_channels(
    model: keras.Model,
    ratio: float | None = None,
    *,
    criterion: Criterion | str | Mapping[str, Any] = "l1",
    target: Budget | Mapping[Any, float] | None = None,
    data: Any = None,
    loss: Any = None,
    scope: str = "local",
    max_ratio: float = 0.9,
    round_to: int = 8,
    iterations: int = 1,
    pruning_schedule: Schedule | None = None,
    fine_tune: FineTune | None = None,
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
    allow_inexact: bool = False,
) -> keras.Model:
    """A new, plain model with whole channels gone: smaller and faster on every runtime.

    Channels that belong together (through additions, depthwise convolutions, concatenations, ...) go together. Inputs
    and outputs keep their shapes. What is left computes what it did; train the result to regain accuracy.

    Args:
        model: Built model; a subclassed one becomes a Functional model of what its `call` runs.
        ratio: Share of the channels to remove, in (0, 1); 0.5 by default, where there is no `target`.
        criterion: What channels are ranked by: `"l1"`, `"l2"`, `"taylor"`, ... or an object.
        target: Instead of `ratio`: what the result may cost, `kc.Budget(macs=0.5, bytes=200_000)` or the same as a
            mapping, `{"macs": 0.5}`.
        data: `(x, y)` or batches of them, for criteria that need data.
        loss: Loss for criteria that need gradients; the model's compiled one by default.
        scope: `"local"`: the share of each group of channels; `"global"`: of all together, by one ranking.
        max_ratio: Largest share to remove from one group.
        round_to: Numbers of channels left are multiples of it; in groups of fewer than four multiples, of its half, a
            quarter, ... of which there are four.
        iterations: In how many steps to prune, each followed by `fine_tune`.
        pruning_schedule: Iteration, from 1 on -> how far to go in it, relative to the value at the last one; equal
            steps by default. Without `ratio` and `target`, the value at the last one is the ratio.
        fine_tune: `kc.Training(...).on(x, y)`, or a function `fine_tune(model)` that trains a model in place; called
            after each step but the last one is yours.
        filters: Which layers: name, `"re:..."`, `"class:..."`, class or callable.
        rules: Exceptions: `{"layers": selector, "skip": True}`, or with `"ratio"` or `"max_ratio"`.
        allow_inexact: Prune channels over which a normalization takes its statistics too.

    Returns:
        A new model, not compiled. The one given stays as it is.

    Raises:
        ValueError: For a ratio out of (0, 1), a target that cannot be reached, a criterion without the data it needs, a
            rule that matches nothing, a subclassed model that cannot be traced, or one whose channels are all frozen.
    """
    criterion = checked_criterion(criterion)
    _check_settings(ratio, target, scope, max_ratio, round_to, iterations, fine_tune, rules)
    wanted = None if target is None else Budget.of(target)
    check_model(model)
    examples = Examples.for_model(model, data, loss, criterion.needs, f"criterion {type(criterion).__name__}")
    graph = channel_graph(model, allow_inexact=allow_inexact)
    limits = limits_of(graph, {"ratio": None, "max_ratio": max_ratio}, filters, rules)
    warn_of_frozen(graph)
    shares, last = _shares(pruning_schedule, iterations)
    budget = None if wanted is None else ChannelBudget(wanted, graph)
    with ProgressLine("pruning channels") as line:
        for step, share in enumerate(shares, start=1):
            line.step(f"step {step} of {iterations}")
            scores = finite_scores(criterion, graph, examples)
            whole_way = Selection(graph, scores, limits, round_to, criterion.comparable)
            choose = _choice(replace(whole_way, limits=_so_far(limits, share)), scope)
            if budget is not None:
                removed = budget.removed(graph, choose, share, _choice(whole_way, scope), Filling(whole_way))
            else:
                removed = choose((last if ratio is None else ratio) * share)
            pruned = cut(graph, removed)
            if allow_inexact:
                _warn_of_inexact(graph, removed)
            if step < iterations and fine_tune is not None:
                fine_tune(pruned)
                graph = channel_graph(pruned, allow_inexact=allow_inexact)
    return pruned


def finite_scores(criterion: Criterion, graph: ChannelGraph, examples: Examples) -> Scores:
    """The scores of a criterion.

    Raises:
        ValueError: For one that is NaN or infinite.
    """
    scores = criterion.scores(graph, examples)
    if not np.isfinite(scores).all():
        raise ValueError(
            "Expected weights and data that give finite scores. "
            f"Received: {type(criterion).__name__} scored {int((~np.isfinite(scores)).sum())} channels NaN or infinite"
        )
    return scores


def _warn_of_inexact(graph: ChannelGraph, removed: Removed) -> None:
    """Say what it costs to remove channels that a normalization takes its statistics over."""
    error = cut_error(graph, removed)
    if error > EXACT:
        warn(
            f"allow_inexact=True: on random inputs, the outputs are up to {error:.2g} of the largest output away from "
            "those of the model in which the removed channels are zero."
        )


def _shares(pruning_schedule: Any, iterations: int) -> tuple[list[float], float]:
    """Shares of the way after each step, 1 after the last, and the ratio where nothing else says it."""
    if pruning_schedule is None:
        return [step / iterations for step in range(1, iterations + 1)], DEFAULT_RATIO
    schedule = resolve("schedule", pruning_schedule)
    if not isinstance(schedule, Schedule):
        raise ValueError(
            "Expected a Schedule, such as PolynomialDecay(0.1, 0.5, begin_step=1, end_step=3). "
            f"Received: pruning_schedule={pruning_schedule!r}"
        )
    values = [float(schedule(step)) for step in range(1, iterations + 1)]
    if values[-1] <= 0 or values != sorted(values):
        raise ValueError(
            f"Expected a schedule that rises to more than 0 in {iterations} iterations. Received: values {values}"
        )
    return [value / values[-1] for value in values], values[-1]


def _choice(selection: Selection, scope: str) -> Callable[[float], Removed]:
    return selection.together if scope == "global" else selection.local


def _so_far(limits: Mapping[str, GroupLimits], share: float) -> dict[str, GroupLimits]:
    """Limits in which ratios of the groups' own are gone to a part of the way."""
    return {
        name: each if each.ratio is None else replace(each, ratio=each.ratio * share) for name, each in limits.items()
    }


def checked_criterion(criterion: Any) -> Criterion:
    """A criterion from what a user may write for it.

    Raises:
        ValueError: For anything else.
    """
    found = resolve("channel_criterion", criterion)
    if not isinstance(found, Criterion):
        raise ValueError(f"Expected a channel criterion, such as 'l1'. Received: criterion={criterion!r}")
    return found


def _check_settings(
    ratio: Any,
    target: Any,
    scope: str,
    max_ratio: float,
    round_to: int,
    iterations: int,
    fine_tune: Any,
    rules: Any,
) -> None:
    if ratio is not None and target is not None:
        raise ValueError(f"Expected either `ratio` or `target`. Received: ratio={ratio}, target={target}")
    check_choice(scope, max_ratio, round_to)
    if ratio is not None:
        _check_ratio("ratio", ratio, max_ratio)
    _check_count("iterations", iterations)
    if scope == "global" and any("ratio" in rule for rule in rules or ()):
        raise ValueError(
            "Expected no ratios of layers in one ranking of all. Received: a rule with `ratio`, scope='global'"
        )
    if fine_tune is not None and not callable(fine_tune):
        raise ValueError(
            "Expected `fine_tune` that can be called with a model, such as kc.Training(...).on(x, y). "
            f"Received: fine_tune={fine_tune}"
        )
    if (iterations > 1) != (fine_tune is not None):
        raise ValueError(
            "Expected `fine_tune` together with `iterations` > 1: what trains the model between the steps. "
            f"Received: iterations={iterations}, fine_tune={fine_tune}"
        )


def check_choice(scope: str, max_ratio: float, round_to: int) -> None:
    """Check what says how channels are chosen.

    Raises:
        ValueError: Naming the argument.
    """
    _check_ratio("max_ratio", max_ratio)
    _check_count("round_to", round_to)
    if scope not in ("local", "global"):
        raise ValueError(f"Expected `scope` as 'local' or 'global'. Received: scope={scope!r}")


def _check_ratio(name: str, value: float, max_ratio: float = 1.0) -> None:
    if not 0.0 < value < 1.0:
        raise ValueError(
            f"Expected `{name}` in (0, 1): at least one channel of each group stays. Received: {name}={value}"
        )
    if value > max_ratio:
        raise ValueError(f"Expected `{name}` <= `max_ratio`. Received: {name}={value}, max_ratio={max_ratio}")


def _check_count(name: str, value: Any) -> None:
    if not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"Expected `{name}` as an integer >= 1. Received: {name}={value}")


def limits_of(
    graph: ChannelGraph,
    defaults: Mapping[str, Any],
    filters: Selector | None = None,
    rules: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, GroupLimits]:
    """Limits of the groups to prune. A group is left alone where one of its layers is.

    Args:
        graph: Channel graph.
        defaults: What rules may change, of `"ratio"` and `"max_ratio"`.
        filters: Which layers.
        rules: Exceptions.
    """
    layers = {each.path: each.layer for each in graph.weights if each.role == "out"}
    listed = [(path, layers[path]) for group in graph.prunable for path in group.layers]
    if not listed:
        raise ValueError(
            "Expected a model with channels that can be removed. Received: "
            + "; ".join(by_message((group.name, str(group.reason)) for group in graph.frozen))
        )
    settings = settings_by_path(listed, defaults, filters, rules)
    chosen = [group for group in graph.prunable if all(path in settings for path in group.layers)]
    if not chosen:
        raise ValueError(
            f"Expected filters and rules that leave something to prune. Received: filters={filters}, rules={rules}"
        )
    warn_of_tied(graph.prunable, settings)
    return {group.name: _group_limits(group, [settings[path] for path in group.layers]) for group in chosen}


def warn_of_tied(groups: Sequence[ChannelGroup], chosen: Collection[str]) -> None:
    """Say which layers stay as wide as they are because others do."""
    pairs = []
    for group in groups:
        out = [path for path in group.layers if path not in chosen]
        if len(out) < len(group.layers):
            reason = f"its channels are also those of {', '.join(out)}, which is left out by filters or rules"
            pairs += [(path, reason) for path in group.layers if out and path in chosen]
    if pairs:
        warn(f"Channels left as they are: {'; '.join(by_message(pairs))}")


def _group_limits(group: ChannelGroup, settings: Sequence[Mapping[str, Any]]) -> GroupLimits:
    for name, value in ((name, value) for each in settings for name, value in each.items() if value is not None):
        _check_ratio(name, value)
    ratios = [each["ratio"] for each in settings if each.get("ratio") is not None]
    highest = min((each["max_ratio"] for each in settings if "max_ratio" in each), default=GroupLimits.max_ratio)
    return GroupLimits(len(group), min(ratios, default=None), highest)


def warn_of_frozen(graph: ChannelGraph) -> None:
    """Say which channels stay, but for those that every model has: its outputs."""
    listed = [(group.name, str(group.reason)) for group in graph.frozen if group.reason != OUTPUT]
    if listed:
        warn(f"Channels left as they are: {'; '.join(by_message(listed))}")


@global_state_kept()
def cut_channels(
    model: keras.Model, channels: Mapping[str, Sequence[int]], *, allow_inexact: bool = False
) -> keras.Model:
    """A new, plain model without the given output channels of the given layers, and all that belongs to them.

    Args:
        model: Built model; a subclassed one becomes a Functional model of what its `call` runs.
        channels: Path of a layer -> indices of its output channels.
        allow_inexact: See `prune_channels`.

    Raises:
        ValueError: For a layer without channels, an index out of range, channels that have to stay, or all channels of
            a layer.
    """
    graph = channel_graph(model, allow_inexact=allow_inexact)
    return cut(graph, removed_channels(graph, channels))


def removed_channels(graph: ChannelGraph, channels: Mapping[str, Sequence[int]]) -> Removed:
    """What `cut` takes, from output channels of layers by their indices.

    Raises:
        ValueError: For a layer without channels, or an index out of range.
    """
    ids_of: dict[str, Ids] = {}
    for each in graph.weights:
        if each.role == "out":
            ids_of.setdefault(each.path, each.ids)
    removed = graph.none_removed()
    for path, indices in channels.items():
        if path not in ids_of:
            raise ValueError(f"Expected paths of layers that make channels: {sorted(ids_of)}. Received: {path!r}")
        wrong = [i for i in indices if not 0 <= i < len(ids_of[path])]
        if wrong:
            raise ValueError(f"Expected indices in [0, {len(ids_of[path])}) for {path!r}. Received: {wrong}")
        removed[graph.units[ids_of[path][list(indices)]]] = True
    return removed
