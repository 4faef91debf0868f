"""From scores to the channels that go: group by group, or all groups ranked together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keras_compress.structured.channel_graph import ChannelGraph, ChannelGroup, Removed

# A group of fewer multiples is rounded to smaller ones: one more or less would change it too much.
FEWEST_STEPS = 4


@dataclass(frozen=True)
class GroupLimits:
    """What may happen to one group.

    Attributes:
        width: How many channels it had before any pruning: ratios are shares of it.
        ratio: Share to remove, of its own; `None`: what all get.
        max_ratio: Largest share to remove.
    """

    width: int
    ratio: float | None = None
    max_ratio: float = 0.9

    def kept(self, kept: float, round_to: int) -> int:
        """How many channels stay where `kept` would be right: rounded, and no fewer than `max_ratio` allows.

        >>> GroupLimits(40, max_ratio=0.7).kept(11.0, 8), GroupLimits(40, max_ratio=0.9).kept(11.0, 8)
        (16, 8)
        """
        count = rounded(kept, self.width, round_to)
        short = self.width * (1.0 - self.max_ratio) - 1e-9 - count
        step = step_of(self.width, round_to)
        return count + step * max(0, int(np.ceil(short / step)))


@dataclass(frozen=True)
class Selection:
    """Chooses channels, lowest scores first.

    Attributes:
        graph: Channel graph.
        scores: A score for each unit.
        limits: Group name -> its limits. Groups that are not in it stay as they are.
        round_to: Numbers of channels that are left are multiples of it; in narrow groups of its half, a quarter, ...
        comparable: Whether scores of different groups can be compared as they are.
    """

    graph: ChannelGraph
    scores: NDArray[np.float64]
    limits: Mapping[str, GroupLimits]
    round_to: int = 1
    comparable: bool = False

    @property
    def groups(self) -> list[ChannelGroup]:
        """Groups to choose from."""
        return [group for group in self.graph.prunable if group.name in self.limits]

    def local(self, ratio: float) -> Removed:
        """Remove the same share of each group, but where a group has a ratio of its own."""
        removed = self.graph.none_removed()
        for group in self.groups:
            limits = self.limits[group.name]
            own = ratio if limits.ratio is None else limits.ratio
            self._remove(group, limits.width * (1.0 - min(own, limits.max_ratio)), removed)
        return removed

    def together(self, ratio: float) -> Removed:
        """Remove a share of all channels, by one ranking of them; groups keep what their limits say."""
        candidates = [self._candidates(group) for group in self.groups]
        ranked = zip(self.groups, candidates, strict=True)
        scores = np.concatenate([self._comparable_scores(group)[: len(units)] for group, units in ranked])
        owner = np.repeat(np.arange(len(candidates)), [len(c) for c in candidates])
        gone = sum(self.limits[group.name].width - len(group) for group in self.groups)
        count = round(ratio * sum(self.limits[group.name].width for group in self.groups)) - gone
        lowest = np.argsort(scores, kind="stable")[: max(count, 0)]
        losses = np.bincount(owner[lowest], minlength=len(candidates))
        removed = self.graph.none_removed()
        for group, loss in zip(self.groups, losses, strict=True):
            self._remove(group, len(group) - float(loss), removed)
        return removed

    def step_back(self, removed: Removed, group: ChannelGroup) -> Removed | None:
        """What is removed when a group gets its next step of channels back; `None` where it has all.

        Args:
            removed: What this selection removes: of each group the lowest scores.
            group: The group.
        """
        gone = self._next_back(removed, group)
        if not len(gone):
            return None
        fewer: Removed = removed.copy()
        fewer[gone] = False
        return fewer

    def step_out(self, removed: Removed, group: ChannelGroup) -> Removed | None:
        """What is removed when a group loses a step more; `None` where its limits do not allow that."""
        limits = self.limits[group.name]
        gone = self.graph.removed_of(group, removed)
        count = len(group) - gone - step_of(limits.width, self.round_to)
        if count < limits.kept(0.0, self.round_to):
            return None
        more: Removed = removed.copy()
        more[self._by_score(group)[gone : len(group) - count]] = True
        return more

    def next_score(self, removed: Removed, group: ChannelGroup) -> float:
        """Mean score of the channels that a group would get back next, comparable among groups."""
        units = self._next_back(removed, group)
        if not len(units):
            return 0.0
        mean = 1.0 if self.comparable else float(self.scores[group.units].mean())
        return float(self.scores[units].mean()) / (mean or 1.0)

    def _next_back(self, removed: Removed, group: ChannelGroup) -> NDArray[np.int64]:
        """Units up to the next multiple, the highest of those removed; none of a group with a ratio of its own."""
        limits = self.limits[group.name]
        gone = self.graph.removed_of(group, removed)
        step = step_of(limits.width, self.round_to)
        count = min(gone, step - (len(group) - gone) % step) if limits.ratio is None else 0
        return self._by_score(group)[gone - count : gone]

    def _candidates(self, group: ChannelGroup) -> NDArray[np.int64]:
        """Units of a group that may go, lowest scores first."""
        limits = self.limits[group.name]
        most = len(group) - max(1, int(np.ceil(limits.width * (1.0 - limits.max_ratio) - 1e-9)))
        return self._by_score(group)[: max(most, 0)]

    def _by_score(self, group: ChannelGroup) -> NDArray[np.int64]:
        return group.units[np.argsort(self.scores[group.units], kind="stable")]

    def _comparable_scores(self, group: ChannelGroup) -> NDArray[np.float64]:
        """Scores of a group, lowest first, divided by their mean unless they are comparable as they are."""
        scores = np.sort(self.scores[group.units], kind="stable")
        mean = scores.mean()
        return scores if self.comparable or mean == 0 else scores / mean

    def _remove(self, group: ChannelGroup, kept: float, removed: Removed) -> None:
        count = self.limits[group.name].kept(kept, self.round_to)
        removed[self._by_score(group)[: max(len(group) - count, 0)]] = True


def rounded(kept: float, width: int, round_to: int) -> int:
    """Number of channels to keep: the nearest multiple that `step_of` gives, at least one of them.

    >>> rounded(45.0, 64, 8), rounded(3.2, 64, 8), rounded(11.2, 16, 8), rounded(0.2, 6, 8)
    (48, 8, 12, 1)
    """
    step = step_of(width, round_to)
    return max(1, round(kept)) if step == 1 else max(step, int(np.floor(kept / step + 0.5)) * step)


def step_of(width: int, round_to: int) -> int:
    """What the width of a group is rounded to: halves of `round_to`, until the group has at least four of them.

    >>> [step_of(width, 8) for width in (64, 24, 12, 6)]
    [8, 4, 2, 1]
    """
    step = round_to
    while step > 1 and width < FEWEST_STEPS * step:
        step //= 2
    return step
