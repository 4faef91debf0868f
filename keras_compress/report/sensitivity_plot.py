"""A sensitivity scan as a table and as a figure. The figure needs matplotlib, which the extra `report` brings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_compress.core.registry import register
from keras_compress.report.plots import figure_of, plain_text
from keras_compress.report.sheet import Column, Sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from keras_compress.structured.sensitivity import GroupSensitivity, Scan

# More groups than this are rows of a map: curves could not be told apart.
MOST_CURVES = 8
# Apart in every common form of colour blindness (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = "osD^vP*X"


@register("report")
def sensitivity_table(result: Scan) -> Sheet:
    """One row for each group, one column for each setting."""
    groups = _named(result)
    columns = [
        Column("group", [name for name, _ in groups], text=True),
        Column(result.unit, [f"{group.width:,}" for _, group in groups]),
        *(
            Column(f"{ratio:.3g}", [f"{group.values[number]:.4g}" for _, group in groups])
            for number, ratio in enumerate(result.tried)
        ),
    ]
    return Sheet(columns, f"Sensitivity, {result.criterion}: {result.unpruned:.4g} {_whole(result)}")


def _named(result: Scan) -> list[tuple[str, GroupSensitivity]]:
    """All groups, those behind the first part with its name: weights and activations may be of one layer."""
    return [
        (group.name if part == result.parts[0] else f"{group.name} ({part})", group)
        for part in result.parts
        for group in getattr(result, part)
    ]


def _whole(result: Scan) -> str:
    if result.begins_at is None:
        return "unquantized"
    return "at full rank" if result.unit == "rank" else "unpruned"


@register("report")
def sensitivity_plot(
    result: Scan, where: Any = None, title: str | None = None, max_drop: float | None = None
) -> Figure:
    """The metric over what was tried: a curve for each group, or a map of cells where groups are many.

    Args:
        result: What `kc.sensitivity` found.
        where: Path of an image to write, or matplotlib axes to draw on.
        title: Above the plot.
        max_drop: A loss of the metric that is tolerated: a line in the curves, cells beyond it underlined in the map.

    Raises:
        ValueError: Without groups.
        ImportError: Without matplotlib.
    """
    groups = _named(result)
    if not groups:
        raise ValueError("Expected a scan of at least one group. Received: none")
    curves = len(groups) <= MOST_CURVES
    on_axes = hasattr(where, "get_figure")
    if on_axes:
        axes = where
    else:
        height = 4.2 if curves else 1.5 + 0.2 * len(groups)
        axes = figure_of(7.5 if curves else 2.5 + 0.6 * len(result.tried), height).subplots()
    (_draw_curves if curves else _draw_map)(axes, result, groups, max_drop)
    removed = result.begins_at is not None
    axes.set_xlabel(f"share of the group's {result.unit} removed" if removed else result.tried_are)
    by = "factorized" if result.unit == "rank" else "ranked" if removed else "measured"
    axes.set_title(plain_text(title or f"Each group alone, {by} by {result.criterion}"))
    figure: Figure = axes.get_figure()
    if where is not None and not on_axes:
        figure.savefig(os.fspath(where), dpi=120)
    return figure


_METHODS = {"sqnr": "signal to noise, dB", "accuracy": "accuracy", "hessian": "change of the loss, negative"}


def _metric_name(result: Scan) -> str:
    return result.measured if result.begins_at is not None else _METHODS.get(result.criterion, result.criterion)


def _draw_curves(axes: Any, result: Scan, groups: list[tuple[str, GroupSensitivity]], max_drop: float | None) -> None:
    begin = () if result.begins_at is None else (result.begins_at,)
    axes.axhline(result.unpruned, color="#BBBBBB", linewidth=1, zorder=0)
    for (name, group), colour, marker in zip(groups, COLOURS, MARKERS, strict=False):
        label = f"{plain_text(name)} ({group.width:,})"
        values = (*(result.unpruned for _ in begin), *group.values)
        axes.plot(
            (*begin, *result.tried), values, color=colour, marker=marker, markersize=5, linewidth=1.5, label=label
        )
    if max_drop is not None:
        axes.axhline(result.unpruned - max_drop, color="#000000", linewidth=1, linestyle="--", zorder=0)
        axes.annotate(
            f"{max_drop:g} lost",
            (0.005, result.unpruned - max_drop),
            xycoords=("axes fraction", "data"),
            xytext=(0, -3),
            textcoords="offset points",
            fontsize=8,
            va="top",
        )
    axes.set_ylabel(plain_text(_metric_name(result)))
    if begin:
        axes.set_xlim(0, 1)
    else:
        axes.set_xscale("log", base=2)
        axes.set_xticks(result.tried, [f"{each:g}" for each in result.tried])
        axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title=f"group ({result.unit})", frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _draw_map(axes: Any, result: Scan, groups: list[tuple[str, GroupSensitivity]], max_drop: float | None) -> None:
    """A row for each group: the metric in words, what is lost as darkness."""
    values = np.array([group.values for _, group in groups])
    losses = np.clip(result.unpruned - values, 0, None)
    most = float(losses.max()) or 1.0
    axes.imshow(losses, cmap="Blues", vmin=0, vmax=most, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        ink = "white" if losses[row, column] > 0.55 * most else "black"
        if max_drop is not None and losses[row, column] > max_drop + 1e-9:
            axes.plot((column - 0.35, column + 0.35), (row + 0.3, row + 0.3), color=ink, linewidth=0.8)
        axes.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=7, color=ink)
    names = [f"{plain_text(name)} ({group.width:,})" for name, group in groups]
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xticks(range(len(result.tried)), [f"{ratio:.3g}" for ratio in result.tried], fontsize=8)
    axes.tick_params(length=0)
    lost = "" if max_drop is None else f"; underlined: more than {max_drop:g} lost"
    axes.set_ylabel(f"group ({result.unit}); {_metric_name(result)} {result.unpruned:.3g} {_whole(result)}{lost}")
