"""The search for what has to go for a budget to be kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import keras
import numpy as np

from keras_compress.core.budget import Budget, Limit
from keras_compress.core.progress import ProgressLine
from keras_compress.core.registry import lookup
from keras_compress.core.warn import warn
from keras_compress.structured.channel_graph import ChannelGraph, Removed
from keras_compress.structured.cost import ChannelCost
from keras_compress.structured.filling import CLOSE, CostOf, Filling
from keras_compress.structured.surgery import cut

Choose = Callable[[float], Removed]
_Choice = TypeVar("_Choice")
# Halvings of the ratio: as fine as float32 can tell ratios apart.
_HALVINGS = 24


@dataclass(frozen=True)
class _Rest:
    """What is left of a model without the removed channels; it is cut once, whatever costs are asked of it."""

    graph: ChannelGraph
    removed: Removed

    @cached_property
    def model(self) -> keras.Model:
        """The smaller model."""
        return cut(self.graph, self.removed)


@dataclass(frozen=True)
class _Goal:
    """One limit, beside the unpruned model.

    Attributes:
        limit: The limit.
        whole: What the cost of candidates is compared with.
        fraction: Most of the unpruned model's cost that may be left.
    """

    limit: Limit
    whole: Any
    fraction: float

    @classmethod
    def of(cls, limit: Limit, unpruned: _Rest) -> _Goal:
        """A limit's goal for an unpruned model."""
        cost = limit.cost
        with ProgressLine(f"{cost.noun} of the unpruned model"):
            if isinstance(cost, ChannelCost):
                whole: Any = cost.value(unpruned.graph, unpruned.removed)
            else:
                whole = cost.whole(unpruned.model) if limit.is_fraction else cost.of(unpruned.model)
        return cls(limit, whole, limit.most if limit.is_fraction else limit.most / float(whole))

    def left(self, rest: _Rest) -> float:
        """The fraction of the cost that is left."""
        cost = self.limit.cost
        if isinstance(cost, ChannelCost):
            return cost.value(rest.graph, rest.removed) / float(self.whole)
        if self.limit.is_fraction:
            return cost.fraction(rest.model, self.whole)
        return cost.of(rest.model) / float(self.whole)

    def told(self, fraction: float) -> str:
        """A fraction of the cost as the limit was given."""
        if self.limit.is_fraction:
            return f"{fraction:.4g} of the {self.limit.cost.noun}"
        return self.limit.figure(fraction * self.whole)


class ChannelBudget:
    """A budget for the channels of a model, and the unpruned model that it is about.

    With several limits, the cost of a candidate is that of the limit that it is farthest from, on the way to the
    lowest fraction of all.

    Args:
        budget: The limits.
        graph: Channels of the unpruned model.
    """

    def __init__(self, budget: Budget, graph: ChannelGraph) -> None:
        unpruned = _Rest(graph, graph.none_removed())
        goals = [_Goal.of(limit, unpruned) for limit in budget]
        self._goals = [goal for goal in goals if goal.fraction < 1.0]
        for goal in goals:
            if goal.fraction >= 1.0:
                warn(f"The model costs {goal.told(1.0)}, within its budget of {goal.limit}: nothing is pruned for it.")
        self._fraction = min((goal.fraction for goal in self._goals), default=1.0)
        counts = [goal.limit.cost.evaluations for goal in self._goals]
        self._evaluations = min((count for count in counts if count is not None), default=None)
        self._tolerance = max((goal.limit.cost.tolerance for goal in self._goals), default=0.0)
        self._predictors = [_Predictor.of(goal.limit, graph) for goal in self._goals]

    def removed(
        self,
        graph: ChannelGraph,
        choose: Choose,
        share: float = 1.0,
        in_the_end: Choose | None = None,
        filling: Filling | None = None,
    ) -> Removed:
        """The least that has to go. A warning says so where it leaves much less than the budget.

        Args:
            graph: Channels of the model as it is now.
            choose: Ratio -> channels to remove; a larger ratio removes more.
            share: How much of the way to the budget to go.
            in_the_end: `choose` of the last step, where that of this one may remove less.
            filling: Gives channels back where the next smaller ratio is over the budget, and this one far below.

        Raises:
            ValueError: If the budget cannot be kept, whatever the share; says what can.
        """
        if not self._goals:
            return graph.none_removed()
        goal = 1.0 - (1.0 - self._fraction) * share
        with ProgressLine(f"{self._units} of candidates", self._evaluations) as line:

            def cost(removed: Removed) -> float:
                rest = _Rest(graph, removed)
                left = self._scaled([goal.left(rest) for goal in self._goals])
                line.advance()
                return left

            reach = (in_the_end or choose)(1.0)
            nearest = self._reached(graph, reach)
            line.advance()
            most = choose(1.0)
            left = nearest if np.array_equal(most, reach) else cost(most)
            if left > goal:
                return most
            if self._evaluations is None:
                candidate = _counted(choose, cost, goal, filling)
            else:
                candidate = self._searched(graph, choose, cost, goal, _Candidate(most, 0.0, left), filling)
        if share == 1.0:
            self._warn_of_rest(candidate.cost)
        return candidate.removed

    def _scaled(self, fractions: Sequence[float]) -> float:
        """One figure for the fractions of all costs that are left: at the goal where the last of them is."""
        ways = [(1.0 - self._fraction) / (1.0 - each.fraction) for each in self._goals]
        return max(left if way == 1.0 else 1.0 - (1.0 - left) * way for left, way in zip(fractions, ways, strict=True))

    def _reached(self, graph: ChannelGraph, removed: Removed) -> float:
        """The cost of the least that can be left.

        Raises:
            ValueError: If that is over the budget.
        """
        rest = _Rest(graph, removed)
        fractions = [goal.left(rest) for goal in self._goals]
        for goal, nearest in zip(self._goals, fractions, strict=True):
            if nearest > goal.fraction:
                what = "the fraction " if goal.limit.is_fraction else ""
                raise ValueError(
                    f"Expected a target that can be reached. Received: {what}{goal.limit} to keep; the nearest is "
                    f"{goal.told(nearest)}, with every group pruned up to its `max_ratio`"
                )
        return self._scaled(fractions)

    @property
    def _units(self) -> str:
        return " and ".join(goal.limit.cost.noun for goal in self._goals)

    def _warn_of_rest(self, left: float) -> None:
        if left >= self._fraction - max(CLOSE, self._tolerance):
            return
        counted = "one step less is over the target; `round_to=1` makes the smallest ones"
        measured = f"in {self._evaluations} measurements none was found that is nearer"
        tightest = min(self._goals, key=lambda goal: goal.fraction)
        warn(
            f"{tightest.told(left)} are left, where the target is {tightest.told(self._fraction)}: channels go in "
            "steps (multiples of `round_to`, and what is tied together), and "
            f"{counted if self._evaluations is None else measured}."
        )

    def _searched(
        self,
        graph: ChannelGraph,
        choose: Choose,
        cost: CostOf,
        goal: float,
        most: _Candidate,
        filling: Filling | None,
    ) -> _Candidate:
        def predicted(removed: Removed) -> float:
            return self._scaled([each.fraction(graph, removed) for each in self._predictors])

        search = _Search(choose, cost, predicted, goal, self._tolerance, filling)
        over = _Candidate(graph.none_removed(), 1.0, 1.0)
        return search.run(over, replace(most, predicted=predicted(most.removed)), (self._evaluations or 1) - 1)


def _counted(choose: Choose, cost: CostOf, goal: float, filling: Filling | None) -> _Candidate:
    removed = within_budget(choose, cost, goal)
    if filling is not None and cost(removed) < goal - filling.close:
        removed = filling.filled(removed, cost, goal)
    return _Candidate(removed, 0.0, cost(removed))


@dataclass(frozen=True)
class _Predictor:
    """A cost that is counted at once, in place of one that is measured.

    Attributes:
        cost: The counted cost.
        whole: Of the unpruned model.
    """

    cost: ChannelCost
    whole: float

    @classmethod
    def of(cls, limit: Limit, graph: ChannelGraph) -> _Predictor:
        """What predicts a limit's cost: itself, where it is counted."""
        counted = limit.cost
        if not isinstance(counted, ChannelCost) or counted.evaluations is not None:
            counted = lookup("cost", counted.predicted_by)()
        return cls(counted, counted.value(graph, graph.none_removed()))

    def fraction(self, graph: ChannelGraph, removed: Removed) -> float:
        """The fraction of the unpruned model's that is left."""
        return self.cost.value(graph, removed) / self.whole


def within_budget(choose: Callable[[float], _Choice], cost: Callable[[_Choice], float], goal: float) -> _Choice:
    """What the smallest ratio that meets a budget chooses; what the largest does, if none meets it.

    Args:
        choose: Ratio -> channels to remove, or what else makes a model cheaper; a larger ratio does more.
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
