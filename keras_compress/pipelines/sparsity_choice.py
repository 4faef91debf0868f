"""Which sparsity each layer gets, so that a metric loses least under a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_compress.convert.convert import convert
from keras_compress.convert.file_bytes import FileBytes
from keras_compress.core.budget import Budget, Limit
from keras_compress.core.global_state import global_state_kept
from keras_compress.core.progress import ProgressLine
from keras_compress.core.shown import Shown, names
from keras_compress.pipelines.bit_choice import Item, LinearCost, best, infeasible, moved, total_loss
from keras_compress.pipelines.stored_bytes import stored_bytes
from keras_compress.pipelines.weight_sensitivity import WeightSensitivity
from keras_compress.pruning.nonzeros import Nonzeros
from keras_compress.pruning.one_shot import prune_one_shot

# Choices between two ratios that were tried: the loss there is a straight line.
_BETWEEN = 4
# Kept shares are whole numbers of these.
_UNIT = 10_000
_TRIES = 5
Kept = tuple[int, ...]


@dataclass(frozen=True, repr=False)
class SparsityChoice(Shown):
    """What `choose_sparsities` found.

    Attributes:
        sparsities: Path of a layer -> its sparsity: `kc.prune_one_shot(model, found.sparsities)`.
        costs: Cost -> its value with them, counted on the pruned model.
        limits: Cost -> the most of it.
        loss: What the metric is predicted to lose: the sum of what each layer loses alone.
    """

    sparsities: Mapping[str, float]
    costs: Mapping[str, float]
    limits: Mapping[str, float]
    loss: float

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines."""
        rows = [(name, f"{value:,.10g} of at most {self.limits[name]:,.10g}") for name, value in self.costs.items()]
        each = [f"{path} {sparsity:.1%}" for path, sparsity in self.sparsities.items()]
        return "SparsityChoice", [*rows, ("predicted loss", f"{self.loss:.3g}"), ("zeros", names(each, ".sparsities"))]


@global_state_kept()
def choose_sparsities(
    model: keras.Model,
    sensitivity: WeightSensitivity,
    budget: Budget | Mapping[Any, float],
    *,
    convert_options: Mapping[str, Any] | None = None,
) -> SparsityChoice:
    """The sparsities of layers, by magnitude, that keep a budget at the least sum of losses; an integer program.

    A layer's loss at a sparsity is what it lost alone in the sensitivity, taken as a straight line between the ratios
    that were tried, and as never falling.

    Args:
        model: The model of the sensitivity.
        sensitivity: What `kc.sensitivity(model, of="weights", ...)` gave. Layers that it left out stay as they are.
        budget: `nonzeros`, the weights that are not zero; `bytes`, of the file that `kc.convert` writes with
            `convert_options`, a fraction being of the float32 file. All limits are kept.
        convert_options: For `bytes`: a way to store weights in which zeros take less, such as
            `{"target": "tflm", "weights_storage": "bitmap", "mode": "int8", "representative_dataset": x}`.

    Raises:
        TypeError: For something that is no sensitivity of weights.
        ValueError: For a budget that no choice keeps (`InfeasibleError`, which names the nearest), other costs, or
            bytes without a way to store them.
    """
    if not isinstance(sensitivity, WeightSensitivity):
        raise TypeError(
            "Expected `sensitivity` as kc.sensitivity(model, of='weights') gives it. "
            f"Received: {type(sensitivity).__name__}"
        )
    plan = _Plan(model, sensitivity, convert_options)
    limits = [plan.cost(limit) for limit in Budget.of(budget)]
    with ProgressLine("choosing sparsities"):
        return plan.within(limits)


class _Plan:
    """Layers with the sparsities that each may have, and what they cost."""

    def __init__(
        self, model: keras.Model, sensitivity: WeightSensitivity, convert_options: Mapping[str, Any] | None
    ) -> None:
        self.model, self.options = model, convert_options
        self.paths = [group.name for group in sensitivity.groups]
        self.tried = (0.0, *sensitivity.tried)
        ends = list(zip(self.tried[:-1], self.tried[1:], strict=True))
        grid = [low + (high - low) * n / _BETWEEN for low, high in ends for n in range(_BETWEEN)] + [self.tried[-1]]
        self.grid = sorted({_kept(sparsity) for sparsity in grid})
        self.sizes = [group.width for group in sensitivity.groups]
        self.items = [
            Item(group.name, self._between([0.0, *_rising(sensitivity.unpruned, group.values)]))
            for group in sensitivity.groups
        ]

    def _between(self, values: Sequence[float]) -> dict[int, float]:
        """Kept share -> a value, by straight lines between those at the ratios that were tried."""
        return {kept: float(np.interp(_sparsity(kept), self.tried, values)) for kept in self.grid}

    def cost(self, limit: Limit) -> LinearCost:
        """A limit as a sum over layers."""
        makers = {Nonzeros: ("nonzeros", self._nonzeros), FileBytes: ("bytes", self._bytes)}
        if type(limit.cost) not in makers:
            raise ValueError(f"Expected a budget of 'nonzeros' or 'bytes'. Received: {type(limit.cost).__name__}")
        name, make = makers[type(limit.cost)]
        most = limit.most * float(limit.cost.whole(self.model)) if limit.is_fraction else limit.most
        constant, terms = make()
        return LinearCost(name, most, constant, terms)

    def _nonzeros(self) -> tuple[float, dict[int, dict[int, float]]]:
        terms = {
            n: {kept: float(max(round(size * kept / _UNIT), 1)) for kept in self.grid}
            for n, size in enumerate(self.sizes)
        }
        return Nonzeros().of(self.model) - sum(self.sizes), terms

    def _bytes(self) -> tuple[float, dict[int, dict[int, float]]]:
        """Read from a file for each ratio that was tried, all layers at it."""
        if self.options is None:
            raise ValueError(
                "Expected `convert_options`, a way to store weights in which zeros take less, such as {'target': "
                "'tflm', 'weights_storage': 'bitmap', 'mode': 'int8', 'representative_dataset': x}. Received: None"
            )
        contents = {_kept(ratio): self._file(dict.fromkeys(self.paths, ratio)) for ratio in self.tried}
        found = stored_bytes(contents, self.paths)
        terms = {
            n: self._between([float(found.weights[path][_kept(ratio)]) for ratio in self.tried])
            for n, path in enumerate(self.paths)
        }
        return float(found.others), terms

    def _file(self, sparsities: Mapping[str, float]) -> bytes:
        return convert(self._pruned(sparsities), **(self.options or {})).content

    def _pruned(self, sparsities: Mapping[str, float]) -> keras.Model:
        return prune_one_shot(self.model, sparsities)

    def within(self, limits: Sequence[LinearCost]) -> SparsityChoice:
        """The choice, whose costs are counted on the pruned model: where they are more, it is made anew."""
        costs = list(limits)
        for _ in range(_TRIES):
            choice = best(self.items, costs)
            values = self._values(choice, costs)
            over = [n for n, cost in enumerate(limits) if values[cost.name] > cost.most]
            if not over:
                return SparsityChoice(
                    self._sparsities(choice),
                    values,
                    {cost.name: cost.most for cost in limits},
                    total_loss(self.items, choice),
                )
            for n in over:
                costs[n] = moved(costs[n], values[costs[n].name] - costs[n].of(choice))
        raise infeasible(self.items, costs)

    def _values(self, choice: Kept, costs: Sequence[LinearCost]) -> dict[str, float]:
        pruned = self._pruned(self._sparsities(choice))
        counted = {"nonzeros": lambda: Nonzeros().of(pruned), "bytes": lambda: float(self._length(pruned))}
        return {cost.name: counted[cost.name]() for cost in costs}

    def _length(self, pruned: keras.Model) -> int:
        return len(convert(pruned, **(self.options or {})).content)

    def _sparsities(self, choice: Kept) -> dict[str, float]:
        return {path: _sparsity(kept) for path, kept in zip(self.paths, choice, strict=True)}


def _kept(sparsity: float) -> int:
    return round((1.0 - sparsity) * _UNIT)


def _sparsity(kept: int) -> float:
    return round(1.0 - kept / _UNIT, 6)


def _rising(whole: float, values: Sequence[float]) -> list[float]:
    """What a metric loses at each ratio, as never falling."""
    drops: list[float] = np.maximum.accumulate(np.maximum(whole - np.array(values), 0.0)).tolist()
    return drops
