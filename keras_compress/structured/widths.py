"""How wide the groups of a model become: by a factor, or as far as a budget goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import keras
import numpy as np

from keras_compress.core.budget import Budget, Limit
from keras_compress.core.progress import ProgressLine
from keras_compress.core.registry import lookup
from keras_compress.core.warn import warn
from keras_compress.structured.channel_budget import within_budget
from keras_compress.structured.channel_graph import ChannelGraph, ChannelGroup, Copies
from keras_compress.structured.cost import ChannelCost
from keras_compress.structured.filling import CLOSE
from keras_compress.structured.selection import rounded, step_of
from keras_compress.structured.surgery import made_anew

# Channels of each group that is widened, by its name.
Counts = dict[str, int]
# No budget makes a model wider than so many times: a cost that does not grow would never be reached.
WIDEST = 4096.0


@dataclass(frozen=True)
class Widths:
    """Makes groups wider.

    Attributes:
        graph: Channel graph.
        factors: Group name -> its own factor, or `None`: that of all. Groups that are not in it stay as they are.
        round_to: Numbers of channels are multiples of it; in narrow groups of its half, a quarter, ...
        seed: Seed of the choice of channels that are there again.
    """

    graph: ChannelGraph
    factors: Mapping[str, float | None]
    round_to: int = 1
    seed: int = 0

    @cached_property
    def groups(self) -> list[ChannelGroup]:
        """Groups to widen."""
        return [group for group in self.graph.prunable if group.name in self.factors]

    def counts(self, factor: float) -> Counts:
        """Numbers of channels by a factor for all groups that have none of their own."""
        found = {}
        for group in self.groups:
            own = self.factors[group.name]
            count = rounded(len(group) * (factor if own is None else own), len(group), self.round_to)
            found[group.name] = max(len(group), count)
        return found

    def step(self, group: ChannelGroup) -> int:
        """Channels that a group gets at a time."""
        return step_of(len(group), self.round_to)

    def copies(self, counts: Counts) -> Copies:
        """How often each unit is to be there: once, and again as often as it is drawn, with replacement.

        A larger number of channels goes on from the draws of a smaller one.
        """
        copies = np.ones(self.graph.unit_count, np.int64)
        for number, group in enumerate(self.groups):
            random = np.random.default_rng([self.seed, number])
            more = random.integers(0, len(group), counts[group.name] - len(group))
            copies[group.units] += np.bincount(more, minlength=len(group))
        return copies


@dataclass(frozen=True)
class _Goal:
    """A limit, beside the cost of the model as it is.

    Attributes:
        limit: The limit.
        whole: Cost of the model as it is.
        most: Cost that is allowed.
        predictor: What stands for a measured cost while candidates are searched for.
    """

    limit: Limit
    whole: float
    most: float
    predictor: ChannelCost

    @classmethod
    def of(cls, limit: Limit, graph: ChannelGraph) -> _Goal:
        """A limit's goal for a model.

        Raises:
            ValueError: For a limit that is no more than the model costs.
        """
        cost = limit.cost
        counted = isinstance(cost, ChannelCost)
        with ProgressLine(f"{cost.noun} of the model as it is"):
            whole = float(cost.value(graph, graph.none_removed()) if counted else cost.of(graph.model))  # type: ignore[attr-defined]
        # A few MACs or bytes are no model: a number up to what it costs now says how many times that.
        times = not cost.figure_name and limit.most <= whole
        most = limit.most * whole if times else limit.most
        if most <= whole:
            raise ValueError(
                "Expected a target that is larger than the model, {'macs': 2.0} for twice its cost, or a figure above. "
                f"Received: {limit}; the model costs {limit.figure(whole)}"
            )
        return cls(limit, whole, most, cost if counted else lookup("cost", cost.predicted_by)())  # type: ignore[arg-type]

    def predicted(self, graph: ChannelGraph, copies: Copies) -> float:
        """What is counted at once of a wider model, as a share of what is allowed if the cost grows like it."""
        now = self.predictor.value(graph, graph.none_removed())
        return self.predictor.value(graph, copies) / now * self.whole / self.most  # type: ignore[arg-type]


class WidthBudget:
    """The widest model that a budget allows: one factor for all groups, then single steps where there is room left.

    Args:
        widths: What to widen.
        budget: The limits. Up to what the model costs now, a number says how many times that; above, it is a figure.

    Raises:
        ValueError: For a limit that is no more than the model costs.
    """

    def __init__(self, widths: Widths, budget: Budget) -> None:
        self._widths = widths
        self._goals = [_Goal.of(limit, widths.graph) for limit in budget]
        tries = [goal.limit.cost.evaluations for goal in self._goals if goal.predictor is not goal.limit.cost]
        self._tries = min((each or 1 for each in tries), default=0)

    def counts(self) -> Counts:
        """Numbers of channels of each group."""
        if not self._tries:
            found = self._counted(1.0)
            self._warn_of_rest(self._predicted(found))
            return found
        return self._measured()

    def _predicted(self, counts: Counts) -> float:
        copies = self._widths.copies(counts)
        return max(goal.predicted(self._widths.graph, copies) for goal in self._goals)

    def _cost(self, counts: Counts) -> float:
        """The cost as a share of what is allowed, of the goal that is nearest to it."""
        model = made_anew(self._widths.graph, self._widths.copies(counts))
        return max(self._share(goal, model, counts) for goal in self._goals)

    def _share(self, goal: _Goal, model: keras.Model, counts: Counts) -> float:
        if isinstance(goal.limit.cost, ChannelCost):
            return goal.predicted(self._widths.graph, self._widths.copies(counts))
        return float(goal.limit.cost.of(model)) / goal.most

    def _counted(self, aim: float) -> Counts:
        """The widest whose predicted share is no more than `aim`."""
        widest = 2.0
        while self._predicted(self._widths.counts(widest)) <= aim:
            widest *= 2
            if widest > WIDEST:
                raise ValueError(
                    f"Expected a target that is reached by a model up to {WIDEST:g} times as wide. Received: "
                    f"{'; '.join(str(goal.limit) for goal in self._goals)}, with "
                    f"{[group.name for group in self._widths.groups]} widened"
                )

        def choose(ratio: float) -> Counts:
            return self._widths.counts(widest - (widest - 1.0) * ratio)

        return self._filled(within_budget(choose, self._predicted, aim), aim)

    def _filled(self, counts: Counts, aim: float) -> Counts:
        """A step more for each group in turn, as long as it fits; those that are widest first."""
        free = [group for group in self._widths.groups if self._widths.factors[group.name] is None]
        order = sorted(free, key=lambda group: -len(group))
        grown = True
        while grown and self._predicted(counts) < aim - CLOSE:
            grown = False
            for group in order:
                more = {**counts, group.name: counts[group.name] + self._widths.step(group)}
                if self._predicted(more) <= aim:
                    counts, grown = more, True
        return counts

    def _measured(self) -> Counts:
        best, nearest = self._widths.counts(1.0), 0.0
        aim = 1.0
        with ProgressLine("costs of candidates", self._tries) as line:
            for _ in range(self._tries):
                counts = self._counted(aim)
                cost = self._cost(counts)
                line.advance()
                if nearest < cost <= 1.0:
                    best, nearest = counts, cost
                if 1.0 - CLOSE <= cost <= 1.0:
                    break
                # The next aims a little below the budget, as what is measured is not what is counted.
                aim *= (1.0 - CLOSE / 2) / cost
        self._warn_of_rest(nearest)
        return best

    def _warn_of_rest(self, share: float) -> None:
        if share < 1.0 - CLOSE:
            tightest = self._goals[0].limit if len(self._goals) == 1 else "the nearest limit"
            warn(
                f"The wider model costs {share:.3g} of what {tightest} allows: channels come in whole steps, of all "
                "that is tied together."
            )
