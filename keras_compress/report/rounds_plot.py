"""Rounds of pruning as figures: the metric over the weights that are left, and over the steps of training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from keras_compress.core.registry import register
from keras_compress.report.plots import figure_of, plain_text
from keras_compress.report.sensitivity_plot import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from keras_compress.pruning.rounds import PrunedInRounds, PruningRound

Line: TypeAlias = tuple[Sequence[float], Sequence[float]]
# More trainings than this could not be told apart.
MOST_TRAININGS = 5
_CONTROL = "other initial weights"


@register("report")
def rounds_plot(
    results: Mapping[str, PrunedInRounds],
    where: Any = None,
    title: str | None = None,
    sparsities: Sequence[float] | None = None,
    metric: str = "metric",
) -> Figure:
    """The metric over the weights that are left, a line for each result and a dashed one for its control.

    Beside it, for the first result whose metric was taken in training (`score_every`), the metric over the steps.

    Args:
        results: Name -> what `kc.find_ticket` or `kc.prune_iteratively` made; those of several ways stand together.
        where: Path of an image to write; `None` only makes the figure.
        title: Above the plot.
        sparsities: Rounds whose training is drawn, those nearest to these; five at most, evenly chosen, by default.
        metric: What the metric is called.

    Raises:
        ValueError: Without results, or with more than can be told apart.
        ImportError: Without matplotlib.
    """
    if not 1 <= len(results) <= len(COLOURS):
        raise ValueError(f"Expected 1 to {len(COLOURS)} results. Received: {len(results)}")
    trained = next((name for name, each in results.items() if any(one.curve for one in each.rounds)), None)
    figure = figure_of(6.5 if trained is None else 12.5, 4.2)
    axes = figure.subplots(1, 1 if trained is None else 2, squeeze=False)[0]
    _draw_sparsities(axes[0], results, metric)
    if trained is not None:
        _draw_trainings(axes[1], results[trained].rounds, sparsities, metric)
        axes[1].set_title(plain_text(f"{trained}, in training"), fontsize=10)
    if title is not None:
        figure.suptitle(plain_text(title))
    if where is not None:
        figure.savefig(os.fspath(where), dpi=120)
    return figure


def _draw_sparsities(axes: Any, results: Mapping[str, PrunedInRounds], metric: str) -> None:
    for (name, result), colour, marker in zip(results.items(), COLOURS, MARKERS, strict=False):
        style = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.5}
        axes.plot(*_left(result.rounds), label=plain_text(name), **style)
        controlled = [each for each in result.rounds if each.control is not None]
        if controlled:
            left = [100 * (1 - each.sparsity) for each in controlled]
            values = [each.control for each in controlled]
            axes.plot(left, values, linestyle="--", fillstyle="none", label=plain_text(f"{name}, {_CONTROL}"), **style)
    axes.axhline(next(iter(results.values())).baseline, color="#BBBBBB", linewidth=1, zorder=0)
    axes.set_xscale("log")
    left = [left for each in results.values() for left in _left(each.rounds)[0]]
    axes.set_xlim(115, 0.85 * min(left))
    ticks = [tick for tick in (100, 50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1) if tick >= 0.85 * min(left)]
    axes.set_xticks(ticks, [f"{tick:g} %" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("weights left")
    _finish(axes, metric, None)


def _left(rounds: Sequence[PruningRound]) -> Line:
    return [100 * (1 - each.sparsity) for each in rounds], [each.metric for each in rounds]


def _draw_trainings(axes: Any, rounds: Sequence[PruningRound], sparsities: Sequence[float] | None, metric: str) -> None:
    for each, colour, marker in zip(chosen(rounds, sparsities), COLOURS, MARKERS, strict=False):
        style = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.5}
        axes.plot(*zip(*each.curve, strict=True), label=f"{100 * (1 - each.sparsity):.3g} %", **style)
        if each.control_curve:
            axes.plot(*zip(*each.control_curve, strict=True), linestyle="--", fillstyle="none", **style)
    axes.set_xlabel(f"steps of training; dashed: {_CONTROL}")
    _finish(axes, metric, "weights left")


def chosen(rounds: Sequence[PruningRound], sparsities: Sequence[float] | None) -> list[PruningRound]:
    """The rounds whose training is drawn, each once.

    Args:
        rounds: All of them.
        sparsities: Those nearest to these; `None`: the first, the last and some between.
    """
    drawn = [each for each in rounds if each.curve]
    if sparsities is None:
        count = min(len(drawn), MOST_TRAININGS)
        places = {round(place * (len(drawn) - 1) / max(count - 1, 1)) for place in range(count)}
        return [drawn[place] for place in sorted(places)]
    near = {min(drawn, key=lambda each: abs(each.sparsity - wanted)).number for wanted in sparsities}
    return [each for each in drawn if each.number in near]


def _finish(axes: Any, metric: str, legend: str | None) -> None:
    axes.set_ylabel(plain_text(metric))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title=legend, frameon=False, fontsize=8)
