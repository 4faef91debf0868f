"""Figures for notebooks and reports. Needs matplotlib, which the extra `report` brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from keras_compress.report.tables import times

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Blue and orange that stay apart in every common form of colour blindness (Okabe and Ito).
_BEFORE, _AFTER, _GREY = "#0072B2", "#D55E00", "#999999"
# More values than this are drawn as a histogram, fewer as one line for each.
_MOST_LINES = 64
# An axis of sizes that spans more than this is logarithmic: on another one the largest bar hides the others.
WIDE = 20


def weight_histogram(
    weights: Mapping[str, tuple[ArrayLike, ArrayLike]], titles: tuple[str, str] = ("before", "after")
) -> Figure:
    """Distribution of weights before and after, one row for each layer.

    A weight with few distinct values is drawn as one line for each value, as high as the share of weights that have it.

    Args:
        weights: Layer's name -> weight before and after, of any shape.
        titles: Heads of the two columns.

    Raises:
        ValueError: Without weights, or with an empty or non-finite one.
        ImportError: Without matplotlib.
    """
    if not weights:
        raise ValueError("Expected at least one weight. Received: none")
    figure = figure_of(9.0, 0.8 + 1.7 * len(weights))
    axes = figure.subplots(len(weights), 2, squeeze=False)
    for (before, after), (name, pair) in zip(axes, weights.items(), strict=True):
        values = [_flat(name, weight) for weight in pair]
        limit = 1.05 * max(float(np.abs(each).max()) for each in values) or 1.0
        for axis, each, colour in ((before, values[0], _BEFORE), (after, values[1], _AFTER)):
            _distribution(axis, each, colour)
            axis.set_xlim(-limit, limit)
        before.set_ylabel(plain_text(name))
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(plain_text(title))
    for axis in axes[-1]:
        axis.set_xlabel("weight")
    return figure


def _flat(name: str, weight: ArrayLike) -> np.ndarray[Any, Any]:
    values = np.asarray(weight, np.float64).reshape(-1)
    if not values.size or not np.isfinite(values).all():
        raise ValueError(f"Expected finite weights. Received: {name!r} with {values.size} values")
    return values


def _distribution(axis: Any, values: np.ndarray[Any, Any], colour: str) -> None:
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= _MOST_LINES:
        axis.vlines(distinct, 0, 100 * counts / values.size, color=colour, linewidth=2)
        axis.set_ylim(0, None)
        said = f"{len(distinct):,} values"
    else:
        axis.hist(values, bins=80, weights=np.full(values.size, 100 / values.size), color=colour)
        said = f"{len(distinct):,} values"
    zeros = float(np.mean(values == 0))
    axis.text(
        0.98, 0.92, f"{said}\n{100 * zeros:.1f} % zeros", transform=axis.transAxes, ha="right", va="top", fontsize=8
    )
    axis.yaxis.set_major_formatter("{x:g} %")
    axis.spines[["top", "right"]].set_visible(False)


# Key of a stage -> how its bar is called.
_SIZES = {"raw_bytes": "file", "gzip_bytes": "file, gzip -9", "weight_payload_bytes": "weights"}


def size_bars(stages: Sequence[Mapping[str, Any]], title: str = "Size of the .tflite file") -> Figure:
    """Sizes of each stage as bars, each with how many times less it is than the first stage's.

    The accuracy is named below a stage where it is known. The axis is logarithmic where sizes differ by more than 20
    times.

    Args:
        stages: Mappings with `name` and any of `raw_bytes`, `gzip_bytes`, `weight_payload_bytes` and `accuracy`, as
            for `keras_compress.report.tables.measurement_table`.
        title: Above the plot.

    Raises:
        ValueError: Without stages.
        ImportError: Without matplotlib.
    """
    if not stages:
        raise ValueError("Expected at least one stage. Received: none")
    shown = {key: label for key, label in _SIZES.items() if any(stage.get(key) is not None for stage in stages)}
    figure = figure_of(9.0, 1.4 + 0.28 * len(stages) * (len(shown) + 1))
    axis = figure.subplots()
    rows = np.arange(len(stages))
    height = 0.8 / max(len(shown), 1)
    wide = _is_wide([stage.get(key) for stage in stages for key in shown])
    for position, ((key, label), colour) in enumerate(zip(shown.items(), (_BEFORE, _AFTER, _GREY), strict=False)):
        sizes = [stage.get(key) or 0 for stage in stages]
        bars = axis.barh(rows + (position - (len(shown) - 1) / 2) * height, sizes, height, label=label, color=colour)
        axis.bar_label(bars, [_size_label(size, sizes[0]) for size in sizes], padding=3, fontsize=8)
    if wide:
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter("")
    axis.set_yticks(rows, [_stage_name(stage) for stage in stages])
    axis.invert_yaxis()
    axis.set_xlabel("bytes, logarithmic" if wide else "bytes")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.margins(x=0.2)
    axis.set_title(plain_text(title))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="lower right", frameon=False)
    return figure


def _is_wide(sizes: Sequence[float | None]) -> bool:
    known = [size for size in sizes if size]
    return bool(known) and max(known) > WIDE * min(known)


def _size_label(size: float, first: float) -> str:
    """`"28,000 B (3.36x less)"`; the first stage's is the bytes alone."""
    if not size:
        return ""
    if size == first or not first:
        return f"{size:,} B"
    return f"{size:,} B ({times(first / size)} less)" if size < first else f"{size:,} B ({times(size / first)} more)"


def _stage_name(stage: Mapping[str, Any]) -> str:
    accuracy = stage.get("accuracy")
    name = plain_text(str(stage["name"]))
    return name if accuracy is None else f"{name}\naccuracy {100 * accuracy:.2f} %"


def plain_text(text: str) -> str:
    """Names are shown as they are: a dollar sign begins no formula."""
    return text.replace("$", r"\$")


def figure_of(width: float, height: float) -> Figure:
    """A figure in inches that belongs to no window: nothing to close, no display needed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Expected matplotlib: `pip install matplotlib`, or the extra `report`. Received: none installed"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")
