"""Which width each part of a model gets, so that the sum of losses is least under limits: an integer program.

Numbers only: what the parts are, what a loss or a cost is, is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import csr_array, vstack

# What the narrower of two choices that are as near counts for, as a share of a limit.
_NARROWER = 1e-2
# One width for each item, in the order of the items.
Choice = tuple[int, ...]


@dataclass(frozen=True)
class Item:
    """A part whose width is chosen.

    Attributes:
        name: For messages.
        losses: Width -> what it costs in quality.
        kind: Items of one kind have one width in a uniform choice.
    """

    name: str
    losses: Mapping[int, float]
    kind: str = "weights"


@dataclass(frozen=True)
class LinearCost:
    """A cost that is a sum over items and over pairs of items.

    Attributes:
        name: For messages.
        most: Its limit; infinite for none.
        constant: What it is beside the items.
        terms: Number of an item -> width -> cost.
        pairs: Numbers of two items -> cost for each product of their widths.
    """

    name: str
    most: float
    constant: float = 0.0
    terms: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    pairs: Mapping[tuple[int, int], float] = field(default_factory=dict)

    def of(self, choice: Choice) -> float:
        """The cost of a choice."""
        alone = sum(cost[choice[number]] for number, cost in self.terms.items())
        return self.constant + alone + sum(each * choice[a] * choice[b] for (a, b), each in self.pairs.items())


class InfeasibleError(ValueError):
    """Limits that no choice keeps.

    Attributes:
        nearest: The choice whose largest excess over a limit, as a share of it, is least.
    """

    def __init__(self, message: str, nearest: Choice) -> None:
        super().__init__(message)
        self.nearest = nearest


def total_loss(items: Sequence[Item], choice: Choice) -> float:
    """Sum of the losses of a choice."""
    return sum(item.losses[width] for item, width in zip(items, choice, strict=True))


def best(items: Sequence[Item], costs: Sequence[LinearCost]) -> Choice:
    """The choice with the least sum of losses whose costs are within their limits.

    A product of two widths is made linear by a variable for each pair of widths, whose sums are those of either item.

    Raises:
        InfeasibleError: Where no choice is; the message names the nearest.

    >>> items = [Item("a", {2: 5.0, 8: 0.0}), Item("b", {2: 1.0, 8: 0.0})]
    >>> best(items, [LinearCost("bits", 10.0, terms={0: {2: 2, 8: 8}, 1: {2: 2, 8: 8}})])
    (8, 2)
    """
    program = _Program(items, costs)
    found = program.solved()
    if found is None:
        raise infeasible(items, costs)
    return found


def infeasible(items: Sequence[Item], costs: Sequence[LinearCost]) -> InfeasibleError:
    """The error of limits that no choice keeps, with the nearest that one keeps."""
    nearest = _Program(items, costs).solved(stretched=True)
    if nearest is None:
        raise RuntimeError("Expected a choice under limits of any size. Received: none from SciPy's milp")
    over = [cost for cost in costs if np.isfinite(cost.most)]
    wanted = ", ".join(f"{cost.name} <= {cost.most:,.10g}" for cost in over)
    reached = ", ".join(f"{cost.name} {cost.of(nearest):,.10g}" for cost in over)
    return InfeasibleError(
        f"Expected a budget that some choice keeps. Received: {wanted}; the nearest that is feasible: {reached}",
        nearest,
    )


class _Program:
    """Binary variables for each item and width, and for each pair of widths of a pair of items."""

    def __init__(self, items: Sequence[Item], costs: Sequence[LinearCost]) -> None:
        self._items = items
        self._costs = [cost for cost in costs if np.isfinite(cost.most)]
        self._places: dict[tuple[int, ...], int] = {}
        for number, item in enumerate(items):
            for width in item.losses:
                self._places[number, width] = len(self._places)
        self._singles = len(self._places)
        for a, b in dict.fromkeys(pair for cost in self._costs for pair in cost.pairs):
            for widths in product(items[a].losses, items[b].losses):
                self._places[(a, b) + widths] = len(self._places)

    def solved(self, stretched: bool = False) -> Choice | None:
        """The best choice, or `stretched` the one nearest to the limits; `None` where there is none."""
        # The last variable is by how much all limits are stretched.
        count = len(self._places) + 1
        equal, sums = self._one_each()
        limits, most = self._limits(stretched)
        upper = np.ones(count)
        upper[-1] = np.inf if stretched else 1.0
        lower = np.zeros(count)
        lower[-1] = 1.0
        integral = np.zeros(count)
        integral[: self._singles] = 1
        constraints = [LinearConstraint(_matrix(equal, count), sums, sums)]
        if limits:
            constraints.append(LinearConstraint(_matrix(limits, count), -np.inf, most))
        found = milp(
            self._objective(count, stretched),
            integrality=integral,
            bounds=(lower, upper),
            constraints=constraints,
            options={"mip_rel_gap": 0.0},
        )
        return None if found.x is None else self._choice(found.x)

    def _objective(self, count: int, stretched: bool) -> NDArray[np.float64]:
        objective = np.zeros(count)
        if stretched:
            objective[-1] = 1.0
            # Of equals the narrower: costs are counted in steps, and what is below one shows only in what is made.
            widest = sum(max(item.losses) for item in self._items)
            for number, item in enumerate(self._items):
                for width in item.losses:
                    objective[self._places[number, width]] = _NARROWER * width / widest
            return objective
        for number, item in enumerate(self._items):
            for width, loss in item.losses.items():
                objective[self._places[number, width]] = loss
        largest = np.abs(objective).max(initial=0.0)
        return objective / largest if largest > 0 else objective

    def _one_each(self) -> tuple[list[dict[int, float]], NDArray[np.float64]]:
        """Each item has one width, and what pairs say of an item is that width."""
        rows = [{self._places[n, width]: 1.0 for width in item.losses} for n, item in enumerate(self._items)]
        sums = [1.0] * len(rows)
        for a, b in dict.fromkeys(key[:2] for key in self._places if len(key) == 4):
            for width in self._items[a].losses:
                pairs = {self._places[a, b, width, other]: 1.0 for other in self._items[b].losses}
                rows.append({**pairs, self._places[a, width]: -1.0})
            for width in self._items[b].losses:
                pairs = {self._places[a, b, other, width]: 1.0 for other in self._items[a].losses}
                rows.append({**pairs, self._places[b, width]: -1.0})
            sums += [0.0] * (len(rows) - len(sums))
        return rows, np.array(sums)

    def _limits(self, stretched: bool) -> tuple[list[dict[int, float]], NDArray[np.float64]]:
        """Costs as shares of their limits, at most 1 or what they are stretched by."""
        rows, most = [], []
        for cost in self._costs:
            unit = cost.most if cost.most > 0 else 1.0
            row = {self._places[n, w]: each / unit for n, by in cost.terms.items() for w, each in by.items()}
            for (a, b), each in cost.pairs.items():
                for one, other in product(self._items[a].losses, self._items[b].losses):
                    row[self._places[a, b, one, other]] = each * one * other / unit
            rows.append({**row, len(self._places): -1.0} if stretched else row)
            most.append((0.0 if stretched else 1.0) - cost.constant / unit)
        return rows, np.array(most)

    def _choice(self, solution: NDArray[np.float64]) -> Choice:
        places = self._places

        def chosen(number: int, item: Item) -> int:
            return max(item.losses, key=lambda width: float(solution[places[number, width]]))

        return tuple(chosen(number, item) for number, item in enumerate(self._items))


def _matrix(rows: Sequence[Mapping[int, float]], columns: int) -> Any:
    return vstack([csr_array((list(row.values()), ([0] * len(row), list(row))), shape=(1, columns)) for row in rows])


def greedy(items: Sequence[Item], costs: Sequence[LinearCost]) -> Choice:
    """From the widest of everything on, one width after the other is lowered, the cheapest first.

    Cheapest is the least loss for each share of a limit that is broken and is saved by it. A baseline.

    Raises:
        InfeasibleError: Where nothing is left to lower.
    """
    choice = tuple(max(item.losses) for item in items)
    while broken := [cost for cost in costs if cost.of(choice) > cost.most]:
        steps = list(_steps(items, choice))
        prices = [_price(items, broken, choice, step) for step in steps]
        if not prices or min(prices) == np.inf:
            raise infeasible(items, costs)
        choice = steps[int(np.argmin(prices))]
    return choice


def _steps(items: Sequence[Item], choice: Choice) -> list[Choice]:
    """The choices in which one item has its next lower width."""
    lower = [(n, max((w for w in item.losses if w < choice[n]), default=None)) for n, item in enumerate(items)]
    return [(*choice[:n], width, *choice[n + 1 :]) for n, width in lower if width is not None]


def _price(items: Sequence[Item], broken: Sequence[LinearCost], choice: Choice, step: Choice) -> float:
    saved = sum((cost.of(choice) - cost.of(step)) / cost.most for cost in broken)
    return (total_loss(items, step) - total_loss(items, choice)) / saved if saved > 0 else np.inf


def uniform(items: Sequence[Item], costs: Sequence[LinearCost]) -> Choice:
    """One width for all items of a kind (its nearest, where an item does not have it): the best that is feasible.

    Raises:
        InfeasibleError: Where none is.
    """
    kinds = {item.kind: sorted({w for each in items if each.kind == item.kind for w in each.losses}) for item in items}
    tried = [dict(zip(kinds, widths, strict=True)) for widths in product(*kinds.values())]
    choices = [tuple(_nearest(item, widths[item.kind]) for item in items) for widths in tried]
    feasible = [choice for choice in choices if all(cost.of(choice) <= cost.most for cost in costs)]
    if not feasible:
        raise infeasible(items, costs)
    return min(feasible, key=lambda choice: total_loss(items, choice))


def _nearest(item: Item, width: int) -> int:
    return min(item.losses, key=lambda each: (abs(each - width), each))


SOLVERS: dict[str, Callable[[Sequence[Item], Sequence[LinearCost]], Choice]] = {
    "milp": best,
    "greedy": greedy,
    "uniform": uniform,
}


def moved(cost: LinearCost, by: float) -> LinearCost:
    """The same cost with more (or less) beside its items."""
    return replace(cost, constant=cost.constant + by)
