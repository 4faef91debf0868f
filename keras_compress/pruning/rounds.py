"""What rounds of pruning were measured to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import keras

from keras_compress.core.registry import lookup
from keras_compress.core.shown import Shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# `(step of the whole training, metric)` at some of its steps.
Curve: TypeAlias = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class PruningRound:
    """One round, as it was measured on the validation data.

    Attributes:
        number: 0 is the model before any pruning, 1 the first that has been pruned.
        sparsity: Share of zeros among the weights that are pruned.
        metric: Of the trained model.
        steps: Batches that it was trained for in this round; 0 where `fit` did not pass on the callbacks.
        within_budget: Whether it loses no more than was allowed.
        curve: `(step of the whole training, metric)` at the steps asked for.
        control: Metric of the control: the same masks over other initial weights.
        control_curve: The same of its training.
    """

    number: int
    sparsity: float
    metric: float
    steps: int
    within_budget: bool = True
    curve: Curve = ()
    control: float | None = None
    control_curve: Curve = ()


@dataclass(frozen=True, repr=False)
class PrunedInRounds(Shown):
    """What `prune_iteratively` made.

    Attributes:
        model: The sparsest trained model within the budget, its masks held.
        sparsity: Share of zeros among its weights that are pruned.
        metric: Its metric on the validation data.
        baseline: That of the model before pruning.
        met: Whether a round was within the budget; where none was, `model` is as it was before.
        rounds: All rounds, in the order they were done, number 0 the model before pruning.
    """

    model: keras.Model
    sparsity: float
    metric: float
    baseline: float
    met: bool
    rounds: tuple[PruningRound, ...]

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """A prompt's few lines."""
        verdict = "" if self.met else ", NOT within the budget"
        return f"{type(self).__name__}: {self.sparsity:.1%} zeros{verdict}", [
            ("metric", f"{self.metric:.6g}, {self.baseline:.6g} before pruning"),
            ("rounds", f"{len(self.rounds) - 1}, of {sum(each.steps for each in self.rounds):,} steps"),
        ]

    def report(self) -> dict[str, Any]:
        """What a report says, as JSON types."""
        return {
            **{name: getattr(self, name) for name in ("sparsity", "metric", "baseline", "met")},
            "rounds": [asdict(each) for each in self.rounds],
        }

    def plot(self, where: Any = None, title: str | None = None) -> Figure:
        """The metric over the weights that are left, and over the steps of training where it was taken.

        Args:
            where: Path of an image to write; `None` only makes the figure.
            title: Above the plot.

        Raises:
            ImportError: Without matplotlib, which the extra `report` brings.
        """
        return lookup("report", "rounds_plot")({type(self).__name__: self}, where, title)  # type: ignore[no-any-return]
