"""A sensitivity scan as a table and as a figure. The figure needs matplotlib, which the extra `report` brings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_compress.core.registry import register
from keras_compress.report.plots import figure_of, plain_text
from keras_compress.report.tables import cell_text, new_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

    from keras_compress.structured.sensitivity import Sensitivity

# More groups than this are rows of a map: curves could not be told apart.
MOST_CURVES = 8
# Apart in every common form of colour blindness (Okabe and Ito).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_MARKERS = "osD^vP*X"


@register("report")
def sensitivity_table(result: Sensitivity) -> Table:
    """One row for each group, one column for each ratio."""
    table = new_table(f"Sensitivity, {result.criterion}: {result.unpruned:.4g} unpruned")
    table.add_column("group", overflow="fold")
    for heading in (result.unit, *(f"{ratio:.3g}" for ratio in result.tried)):
        table.add_column(heading, justify="right")
    for group in result.groups:
        table.add_row(cell_text(group.name), f"{group.width:,}", *(f"{value:.4g}" for value in group.values))
    return table


@register("report")
def sensitivity_plot(result: Sensitivity, where: Any = None, title: str | None = None) -> Figure:
    """The metric over the share of channels removed: a curve for each group, or a map of cells where groups are many.

    Args:
        result: What `kc.sensitivity` found.
        where: Path of an image to write, or matplotlib axes to draw on.
        title: Above the plot.

    Raises:
        ValueError: Without groups.
        ImportError: Without matplotlib.
    """
    if not result.groups:
        raise ValueError("Expected a scan of at least one group. Received: none")
    curves = len(result.groups) <= MOST_CURVES
    on_axes = hasattr(where, "get_figure")
    if on_axes:
        axes = where
    else:
        height = 4.2 if curves else 1.5 + 0.2 * len(result.groups)
        axes = figure_of(7.5 if curves else 2.5 + 0.6 * len(result.tried), height).subplots()
    (_draw_curves if curves else _draw_map)(axes, result)
    axes.set_xlabel(f"share of the group's {result.unit} removed")
    axes.set_title(plain_text(title or f"Each group alone, ranked by {result.criterion}"))
    figure: Figure = axes.get_figure()
    if where is not None and not on_axes:
        figure.savefig(os.fspath(where), dpi=120)
    return figure


def _draw_curves(axes: Any, result: Sensitivity) -> None:
    shares = (0.0, *result.tried)
    axes.axhline(result.unpruned, color="#BBBBBB", linewidth=1, zorder=0)
    for group, colour, marker in zip(result.groups, _COLOURS, _MARKERS, strict=False):
        label = f"{plain_text(group.name)} ({group.width})"
        values = (result.unpruned, *group.values)
        axes.plot(shares, values, color=colour, marker=marker, markersize=5, linewidth=1.5, label=label)
    axes.set_ylabel("metric")
    axes.set_xlim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title=f"group ({result.unit})", frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _draw_map(axes: Any, result: Sensitivity) -> None:
    """A row for each group: the metric in words, what is lost as darkness."""
    values = np.array([group.values for group in result.groups])
    losses = np.clip(result.unpruned - values, 0, None)
    most = float(losses.max()) or 1.0
    axes.imshow(losses, cmap="Blues", vmin=0, vmax=most, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        ink = "white" if losses[row, column] > 0.55 * most else "black"
        axes.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=7, color=ink)
    names = [f"{plain_text(group.name)} ({group.width})" for group in result.groups]
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xticks(range(len(result.tried)), [f"{ratio:.3g}" for ratio in result.tried], fontsize=8)
    axes.tick_params(length=0)
    axes.set_ylabel(f"group ({result.unit}); {result.unpruned:.3g} unpruned")
