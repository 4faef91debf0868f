"""What a model costs, as far as its channels tell, and the search for the ratio that meets a budget."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from keras_compress.core.registry import PACKAGE, register, resolve
from keras_compress.structured.channel_graph import ChannelGraph, Removed

# Costs that are read from files and clocks live above this package, and are found by name when they are asked for.
_ELSEWHERE = {"bytes": "convert.file_bytes", "latency": "runtime.latency"}


class Cost:
    """A cost of a model.

    Class attributes:
        evaluations: How many candidates a search may try: few where each is converted and run.
        unit: Its unit, for messages.
    """

    evaluations: int = 40
    unit: str = ""

    def value(self, graph: ChannelGraph, removed: Removed) -> float:
        """The cost of the model without the removed channels."""
        raise NotImplementedError(f"{type(self).__name__} must implement `value(graph, removed)`.")


@register("cost", "macs")
class Macs(Cost):
    """Multiply-accumulates of one sample."""

    unit = "MACs"

    def value(self, graph: ChannelGraph, removed: Removed) -> float:
        return float(graph.macs(removed))


@register("cost", "params")
class Params(Cost):
    """Number of weights."""

    unit = "parameters"

    def value(self, graph: ChannelGraph, removed: Removed) -> float:
        return float(graph.params(removed))


def cost_of(target: Mapping[Any, float]) -> tuple[Cost, float]:
    """The cost and the fraction of it that is to be left, from `{"macs": 0.5}` or `{Macs(): 0.5}`.

    Raises:
        ValueError: For more than one, an unknown one, or a fraction out of (0, 1).
    """
    if not isinstance(target, Mapping) or len(target) != 1:
        raise ValueError(f"Expected `target` as one cost and the fraction to keep, {{'macs': 0.5}}. Received: {target}")
    ((identifier, fraction),) = target.items()
    if identifier in _ELSEWHERE:
        importlib.import_module(f"{PACKAGE}.{_ELSEWHERE[identifier]}")
    cost = resolve("cost", identifier)
    if not isinstance(cost, Cost):
        raise ValueError(f"Expected a cost such as 'macs', 'params', 'bytes' or 'latency'. Received: {identifier!r}")
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"Expected a fraction in (0, 1) of the {identifier} to keep. Received: {fraction}")
    return cost, float(fraction)


def within_budget(
    choose: Callable[[float], Removed], cost: Callable[[Removed], float], goal: float, tries: int
) -> Removed:
    """What the smallest ratio that meets a budget removes.

    Args:
        choose: Ratio -> channels to remove; a larger ratio removes more.
        cost: Cost of what is left.
        goal: The budget.
        tries: How many ratios to try.

    Raises:
        ValueError: If the largest ratio does not meet it; says what it reaches.
    """
    best = choose(1.0)
    nearest = cost(best)
    if nearest > goal:
        raise ValueError(
            f"Expected a target that can be reached. Received: {goal:,.0f}; the nearest is {nearest:,.0f}, with every "
            "group pruned up to its `max_ratio`"
        )
    low, high = 0.0, 1.0
    for _ in range(tries):
        middle = (low + high) / 2
        candidate = choose(middle)
        if cost(candidate) <= goal:
            best, high = candidate, middle
        else:
            low = middle
    return best
