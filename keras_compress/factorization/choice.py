"""Which layers are factorized, how and to what rank, for a budget to be kept at the least error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import keras

from keras_compress.core.budget import Budget, Limit
from keras_compress.core.progress import ProgressLine
from keras_compress.factorization.scheme import Option
from keras_compress.structured.cost import Macs, Params

# Name of a layer -> what is chosen for it, and what there is to choose from, the layer as it is first.
Chosen = Mapping[str, Option]
Menus = Mapping[str, Sequence[Option]]
Build = Callable[[Chosen], keras.Model]
# Halvings of the price, on a logarithmic scale: counted costs, and as many as a measured one allows.
_HALVINGS = 40
_CHEAPEST, _DEAREST = -12.0, 12.0


def front(options: Sequence[Option], size: Callable[[Option], float]) -> list[Option]:
    """The options that no other one beats in size and error, by falling size.

    Args:
        options: All of them.
        size: Of an option.
    """
    kept: list[Option] = []
    for option in sorted(options, key=lambda each: (size(each), each.error)):
        if not kept or option.error < kept[-1].error:
            kept.append(option)
    return kept[::-1]


@dataclass(frozen=True)
class _Goal:
    limit: Limit
    whole: float
    most: float

    def guide(self, option: Option) -> float:
        """What the option adds to this cost, or to the one that goes with it."""
        params = isinstance(self.limit.cost, Params) or (
            not isinstance(self.limit.cost, Macs) and self.limit.cost.predicted_by == "params"
        )
        return float(option.params if params else option.macs)

    @property
    def counted(self) -> bool:
        return isinstance(self.limit.cost, (Macs, Params))


class Choice:
    """A search for the ranks that keep a budget.

    Each layer takes what makes `error + price * size` least; the price is the same for all layers and rises until the
    budget is kept. Then layers get better ranks back where there is room.

    Args:
        model: The model as it is.
        budget: The limits.
        menus: What there is to choose from.
        build: Makes the model of a choice.
        what: What the budget is to be kept by, for messages.
    """

    def __init__(self, model: keras.Model, budget: Budget, menus: Menus, build: Build, what: str = "low rank") -> None:
        self._build, self._what = build, what
        self._goals = []
        for limit in budget:
            whole = float(limit.cost.of(model))
            self._goals.append(_Goal(limit, whole, limit.most * whole if limit.is_fraction else limit.most))
        self._as_is = {name: options[0] for name, options in menus.items()}
        self._scales = [sum(goal.guide(option) for option in self._as_is.values()) or 1.0 for goal in self._goals]
        self._menus = {name: front(options, self._size) for name, options in menus.items()}

    def _size(self, option: Option) -> float:
        """Of an option, relative to all layers as they are, over all limits."""
        return sum(goal.guide(option) / scale for goal, scale in zip(self._goals, self._scales, strict=True))

    def found(self) -> dict[str, Option]:
        """The choice.

        Raises:
            ValueError: If no choice keeps the budget; says what the nearest one costs.
        """
        counts = [goal.limit.cost.evaluations for goal in self._goals if not goal.counted]
        tries = min((count for count in counts if count is not None), default=_HALVINGS)
        with ProgressLine("choosing ranks", tries) as line:
            if self._kept(self._as_is):
                return self._as_is
            low, high = _CHEAPEST, _DEAREST
            best = self._at(math.inf)
            costs = self._costs(best)
            if not self._are_kept(costs):
                raise ValueError(self._refusal(costs))
            for _ in range(tries):
                middle = (low + high) / 2
                chosen = self._at(10.0**middle)
                if self._kept(chosen):
                    best, high = chosen, middle
                else:
                    low = middle
                line.advance()
        return self._filled(best)

    def _at(self, price: float) -> dict[str, Option]:
        def burden(option: Option) -> float:
            return self._size(option) if math.isinf(price) else option.error + price * self._size(option)

        return {name: min(options, key=burden) for name, options in self._menus.items()}

    def _kept(self, chosen: Chosen) -> bool:
        return self._are_kept(self._costs(chosen))

    def _are_kept(self, costs: Sequence[float]) -> bool:
        return all(cost <= goal.most for cost, goal in zip(costs, self._goals, strict=True))

    def _costs(self, chosen: Chosen) -> list[float]:
        """Of each limit; the model is made once, and only where something is measured."""
        model = None if all(goal.counted for goal in self._goals) else self._build(chosen)
        return [
            self._counted(goal, chosen) if goal.counted else float(goal.limit.cost.of(model)) for goal in self._goals
        ]

    def _counted(self, goal: _Goal, chosen: Chosen) -> float:
        return goal.whole - sum(goal.guide(self._as_is[name]) - goal.guide(option) for name, option in chosen.items())

    def _filled(self, chosen: dict[str, Option]) -> dict[str, Option]:
        """Better options one by one, the largest gain of error first, while counted limits are kept."""
        if not all(goal.counted for goal in self._goals):
            return chosen
        while True:
            costs = self._costs(chosen)
            better = [
                (chosen[name].error - option.error, name, option)
                for name, options in self._menus.items()
                for option in options
                if option.error < chosen[name].error and self._has_room(costs, chosen[name], option)
            ]
            if not better:
                return chosen
            _, name, option = max(better, key=lambda each: each[0])
            chosen = {**chosen, name: option}

    def _has_room(self, costs: Sequence[float], old: Option, new: Option) -> bool:
        """Whether counted costs stay within the budget when one layer gets another option."""
        return self._are_kept(
            [cost + goal.guide(new) - goal.guide(old) for cost, goal in zip(costs, self._goals, strict=True)]
        )

    def _refusal(self, costs: Sequence[float]) -> str:
        over, cost = next(pair for pair in zip(self._goals, costs, strict=True) if pair[1] > pair[0].most)
        limit = over.limit
        reached = f"{cost / over.whole:.4g} of the {limit.cost.noun}" if limit.is_fraction else limit.figure(cost)
        return f"Expected a budget that {self._what} can keep: {reached} at the least. Received: {limit}"
