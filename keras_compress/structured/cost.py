"""What a model costs, counted or measured, and the search for the ratio that meets a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from keras_compress.core.progress import ProgressLine
from keras_compress.core.registry import entries, register, resolve
from keras_compress.core.suggest import did_you_mean
from keras_compress.core.warn import warn
from keras_compress.structured.channel_graph import ChannelGraph, Removed
from keras_compress.structured.filling import CLOSE, CostOf, Filling

Choose = Callable[[float], Removed]
# Halvings of the ratio: as fine as float32 can tell ratios apart.
_HALVINGS = 24


class Cost:
    """A cost of a model, for `prune_channels(target={cost: fraction to keep})`.

    A subclass implements `value`; `fraction` too, where the two models are to be measured side by side.

    Class attributes:
        evaluations: How many candidates a search may try where each is converted or run; `None` for a cost that is
            counted at once.
        tolerance: How far below its goal a search may stop, as a fraction of the whole cost.
        unit: What it is counted in, for messages.
    """

    evaluations: int | None = None
    tolerance: float = 0.0
    unit: str = ""

    def value(self, graph: ChannelGraph, removed: Removed) -> float:
        """The cost of the model without the removed channels."""
        raise NotImplementedError(f"{type(self).__name__} must implement `value(graph, removed)`.")

    def whole(self, graph: ChannelGraph) -> Any:
        """What candidates are compared with, made once from the unpruned model: its cost, by default."""
        return self.value(graph, graph.none_removed())

    def fraction(self, graph: ChannelGraph, removed: Removed, whole: Any) -> float:
        """The cost without the removed channels as a fraction of that of the unpruned model.

        Args:
            graph: Channels of the unpruned model, or of one that was pruned before.
            removed: For each unit, whether it goes.
            whole: What `whole` gave.
        """
        return self.value(graph, removed) / float(whole)

    def predictor(self, graph: ChannelGraph, removed: Removed) -> float:
        """A figure that is counted at once and grows with the cost: a measured cost is searched for by it."""
        return float(graph.params(removed))


@register("cost")
class Macs(Cost):
    """Multiply-accumulates of one sample."""

    unit = "MACs"

    def value(self, graph: ChannelGraph, removed: Removed) -> float:
        return float(graph.macs(removed))


@register("cost")
class Params(Cost):
    """Number of weights, also of those that are not trained."""

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
    cost = resolve("cost", _cost_name(identifier))
    if not isinstance(cost, Cost):
        raise ValueError(f"Expected a cost such as 'macs', 'params', 'bytes' or 'latency'. Received: {identifier!r}")
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"Expected a fraction in (0, 1) of the {identifier} to keep. Received: {fraction}")
    return cost, float(fraction)


def _cost_name(identifier: Any) -> Any:
    """The registered name behind what a user writes; other identifiers as they are."""
    if not isinstance(identifier, str):
        return identifier
    names = {name.lower(): name for name in entries("cost")}
    known = sorted(names)
    if identifier not in (*known, *names.values()):
        raise ValueError(f"Expected a cost out of {known}. Received: {identifier!r}{did_you_mean(identifier, known)}")
    return names.get(identifier, identifier)


class Budget:
    """A target, and the unpruned model that it is a fraction of.

    Args:
        target: One cost and the fraction of it to keep.
        graph: Channels of the unpruned model.

    Raises:
        ValueError: See `cost_of`.
    """

    def __init__(self, target: Mapping[Any, float], graph: ChannelGraph) -> None:
        self._cost, self._fraction = cost_of(target)
        with ProgressLine(f"{self._cost.unit} of the unpruned model"):
            self._whole = self._cost.whole(graph)
        self._predicted_whole = self._cost.predictor(graph, graph.none_removed())

    def removed(
        self,
        graph: ChannelGraph,
        choose: Choose,
        share: float = 1.0,
        in_the_end: Choose | None = None,
        filling: Filling | None = None,
    ) -> Removed:
        """The least that has to go. A warning says so where it leaves much less than the target.

        Args:
            graph: Channels of the model as it is now.
            choose: Ratio -> channels to remove; a larger ratio removes more.
            share: How much of the way to the target to go.
            in_the_end: `choose` of the last step, where that of this one may remove less.
            filling: Gives channels back where the next smaller ratio is over the target, and this one far below.

        Raises:
            ValueError: If the target cannot be reached, whatever the share; says what can.
        """
        goal = 1.0 - (1.0 - self._fraction) * share
        with ProgressLine(f"{self._cost.unit} of candidates", self._cost.evaluations) as line:

            def fraction(removed: Removed) -> float:
                found = self._cost.fraction(graph, removed, self._whole)
                line.advance()
                return found

            reach = (in_the_end or choose)(1.0)
            nearest = fraction(reach)
            self._check_reached(nearest)
            most = choose(1.0)
            cost = nearest if np.array_equal(most, reach) else fraction(most)
            if cost > goal:
                return most
            if self._cost.evaluations is None:
                found = self._counted(choose, fraction, goal, filling)
            else:
                found = self._searched(graph, choose, fraction, goal, _Candidate(most, 0.0, cost), filling)
        if share == 1.0:
            self._warn_of_rest(found.cost)
        return found.removed

    def _counted(self, choose: Choose, fraction: CostOf, goal: float, filling: Filling | None) -> _Candidate:
        removed = within_budget(choose, fraction, goal)
        if filling is not None and fraction(removed) < goal - filling.close:
            removed = filling.filled(removed, fraction, goal)
        return _Candidate(removed, 0.0, fraction(removed))

    def _warn_of_rest(self, cost: float) -> None:
        if cost >= self._fraction - max(CLOSE, self._cost.tolerance):
            return
        counted = "one step less is over the target; `round_to=1` makes the smallest ones"
        measured = f"in {self._cost.evaluations} measurements none was found that is nearer"
        warn(
            f"{cost:.3g} of the {self._cost.unit} are left, where the target is {self._fraction:g}: channels go in "
            "steps (multiples of `round_to`, and what is tied together), and "
            f"{counted if self._cost.evaluations is None else measured}."
        )

    def _check_reached(self, nearest: float) -> None:
        if nearest > self._fraction:
            raise ValueError(
                f"Expected a target that can be reached. Received: the fraction {self._fraction:g} of the "
                f"{self._cost.unit} to keep; the nearest is {nearest:.4g}, with every group pruned up to its "
                "`max_ratio`"
            )

    def _searched(
        self,
        graph: ChannelGraph,
        choose: Choose,
        fraction: CostOf,
        goal: float,
        most: _Candidate,
        filling: Filling | None,
    ) -> _Candidate:
        search = _Search(
            choose, fraction, lambda removed: self._cost.predictor(graph, removed), goal, self._cost.tolerance, filling
        )
        over = _Candidate(graph.none_removed(), self._predicted_whole, 1.0)
        tries = (self._cost.evaluations or 1) - 1
        return search.run(over, replace(most, predicted=search.predicted(most.removed)), tries)


def within_budget(choose: Choose, cost: CostOf, goal: float) -> Removed:
    """What the smallest ratio that meets a budget removes; what the largest does, if none meets it.

    Args:
        choose: Ratio -> channels to remove; a larger ratio removes more.
        cost: Cost of what is left.
        goal: The budget.
    """
    best = choose(1.0)
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        candidate = choose(middle)
        if cost(candidate) <= goal:
            best, high = candidate, middle
        else:
            low = middle
    return best


@dataclass(frozen=True)
class _Candidate:
    """What goes, what is predicted of the rest, and what it costs as a fraction of the unpruned model."""

    removed: Removed
    predicted: float
    cost: float


@dataclass(frozen=True)
class _Search:
    """Looks for the most expensive candidate within a budget in few evaluations.

    Between one that meets the goal and one that is over it, the cost is taken to be a straight line over what is
    predicted (of a float32 file it nearly is one); each evaluation moves one of the two ends.
    """

    choose: Choose
    cost: CostOf
    predicted: CostOf
    goal: float
    tolerance: float
    filling: Filling | None = None

    def run(self, over: _Candidate, meets: _Candidate, tries: int) -> _Candidate:
        """The best of some tries.

        Args:
            over: A candidate over the goal, the unpruned model for one.
            meets: One that meets it.
            tries: Evaluations to spend.
        """
        for _ in range(tries):
            if meets.cost >= self.goal - self.tolerance:
                break
            removed = self._between(over, meets)
            if removed is None:
                break
            tried = _Candidate(removed, self.predicted(removed), self.cost(removed))
            if tried.cost <= self.goal:
                meets = tried
            else:
                over = tried
        return meets

    def _between(self, over: _Candidate, meets: _Candidate) -> Removed | None:
        """The next to try: where the line meets the goal, else the next larger one; `None` where there is none.

        Where no ratio leads there and the goal is far, single groups make the difference.
        """
        aim = np.interp(self.goal - self.tolerance / 2, (meets.cost, over.cost), (meets.predicted, over.predicted))
        removed = within_budget(self.choose, self.predicted, float(aim))
        if self.predicted(removed) <= meets.predicted:
            removed = self._next_larger(meets.predicted)
        by_ratio = meets.predicted < self.predicted(removed) < over.predicted
        if self.filling is not None and not by_ratio and meets.cost < self.goal - self.filling.close:
            removed = self.filling.next_larger(meets.removed, self.predicted, float(aim))
        return removed if meets.predicted < self.predicted(removed) < over.predicted else None

    def _next_larger(self, predicted: float) -> Removed:
        """What goes with the largest ratio that leaves more than `predicted`."""
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.predicted(self.choose(middle)) > predicted else (low, middle)
        return self.choose(low)
