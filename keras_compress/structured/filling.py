"""What a budget has left, spent group by group: a ratio lets all groups of a width step at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from keras_compress.structured.channel_graph import ChannelGroup, Removed
from keras_compress.structured.selection import Selection

CostOf = Callable[[Removed], float]
# How far below a budget is near enough, as a fraction of the unpruned model's cost.
CLOSE = 0.03


@dataclass(frozen=True)
class Filling:
    """Gives groups channels back, a step each, as far as a budget goes.

    Attributes:
        selection: The groups, what their channels score, and their steps.
        close: How far below the budget is near enough.
    """

    selection: Selection
    close: float = CLOSE

    def filled(self, removed: Removed, cost: CostOf, goal: float) -> Removed:
        """What goes at last: as little as whole steps allow, of what a ratio would remove.

        In each round the groups whose next channels score highest come first, and each gets one step. Where no more
        fits and there is much left, one group gives steps away for the others.

        Args:
            removed: What goes by the ratio; it meets the budget.
            cost: Cost of what is left.
            goal: The budget.
        """
        best = self._rounds(removed, cost, goal)
        for group, less in self._fewer(best):
            if cost(best) >= goal - self.close:
                break
            tried = self._rounds(less, cost, goal, but=group)
            best = tried if cost(tried) > cost(best) else best
        return best

    def _fewer(self, removed: Removed) -> Iterator[tuple[ChannelGroup, Removed]]:
        """Each group with one step less, two steps, ..."""
        lesser: dict[str, Removed | None] = {group.name: removed for group in self._order(removed)}
        order = self._order(removed)[::-1]
        while any(each is not None for each in lesser.values()):
            for group in order:
                before = lesser[group.name]
                after = None if before is None else self.selection.step_out(before, group)
                lesser[group.name] = after
                if after is not None:
                    yield group, after

    def next_larger(self, removed: Removed, cost: CostOf, goal: float) -> Removed:
        """The same for a figure of any unit, to be tried; the cheapest step over the budget where none fits."""
        whole = cost(self.selection.graph.none_removed())
        after = self.filled(removed, lambda each: cost(each) / whole, goal / whole)
        if cost(after) > cost(removed):
            return after
        steps = [self.selection.step_back(removed, group) for group in self.selection.groups]
        return min((each for each in steps if each is not None), key=cost, default=removed)

    def _rounds(self, removed: Removed, cost: CostOf, goal: float, but: ChannelGroup | None = None) -> Removed:
        while True:
            after = self._round(removed, cost, goal, but)
            if after is removed or cost(after) >= goal - self.close:
                return after
            removed = after

    def _round(self, removed: Removed, cost: CostOf, goal: float, but: ChannelGroup | None = None) -> Removed:
        for group in self._order(removed):
            candidate = None if group is but else self.selection.step_back(removed, group)
            if candidate is not None and cost(candidate) <= goal:
                removed = candidate
        return removed

    def _order(self, removed: Removed) -> Sequence[ChannelGroup]:
        """Groups whose share the ratio decides, those first whose next channels matter most."""
        free = [group for group in self.selection.groups if self.selection.limits[group.name].ratio is None]
        return sorted(free, key=lambda group: -self.selection.next_score(removed, group))
