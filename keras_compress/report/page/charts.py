"""The page's charts with axes, drawn by matplotlib as SVG that takes the colours of the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from keras_compress.report.plots import WIDE, figure_of, plain_text
from keras_compress.report.sensitivity_plot import sensitivity_plot

# Drawn in place of black; the page's own ink takes its place, which is light on dark paper.
_INK = "#010203"
_LINE = "#0072B2"
# A longer name of a stage would run into the next chart.
_LONGEST_NAME = 18
# Share of an axis within which labels would lie on each other.
_OVERLAP = 0.12
_THEME = {
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
}
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Axis:
    """What a stage costs, along an axis.

    Attributes:
        label: Of the axis.
        of: A stage's figure, or `None`.
        spread: Its lower and upper end, where it was measured more than once.
    """

    label: str
    of: Callable[[Row], float | None]
    spread: Callable[[Row], tuple[float, float]] | None = None


_COSTS = (
    Axis("file, bytes", lambda row: row.get("raw_bytes")),
    Axis(
        "latency, ms",
        lambda row: (row.get("litert_latency_ms") or {}).get("median"),
        lambda row: (row["litert_latency_ms"]["p10"], row["litert_latency_ms"]["p90"]),
    ),
    Axis("TFLM arena, bytes", lambda row: row.get("tflm_arena_bytes")),
)
# Metric's key -> its name, and whether more is better.
METRICS = {"accuracy": ("accuracy, %", True), "mean_absolute_error": ("mean absolute error", False)}


def pareto_chart(rows: Sequence[Row], max_drop: float | None = None) -> str:
    """The metric against size, latency and arena; the stages that no other one beats in both are joined.

    Args:
        rows: As for `keras_compress.report.tables.measurement_table`.
        max_drop: Loss of the metric against the first row that is tolerated, to be drawn as a line.

    Returns:
        SVG; `""` where fewer than two stages have a metric.
    """
    metric = next((key for key in METRICS if any(row.get(key) is not None for row in rows)), None)
    if metric is None:
        return ""
    costs = [cost for cost in _COSTS if len(_points(rows, metric, cost)) > 1]
    if not costs:
        return ""
    with _theme():
        figure = figure_of(3.6 * len(costs), 3.2)
        for axes, cost in zip(figure.subplots(1, len(costs), squeeze=False)[0], costs, strict=True):
            points = _points(rows, metric, cost)
            _draw_costs(axes, points, metric, cost)
            if max_drop is not None:
                _draw_tolerated(axes, points[0][1], max_drop, metric)
        return _svg(figure, "pareto")


def _points(rows: Sequence[Row], metric: str, cost: Axis) -> list[tuple[float, float, Row]]:
    found = [(cost.of(row), row.get(metric), row) for row in rows]
    return [(x, y, row) for x, y, row in found if x is not None and y is not None]


def front(points: Sequence[tuple[float, float]], more_is_better: bool = True) -> list[int]:
    """Positions of the points that no other one beats in both figures, by rising cost.

    Args:
        points: `(cost, metric)` of each.
        more_is_better: Of the metric.

    >>> front([(10, 0.9), (5, 0.8), (7, 0.7), (20, 0.9)])
    [1, 0]
    """
    sign = 1 if more_is_better else -1
    best, found = None, []
    for position in sorted(range(len(points)), key=lambda n: (points[n][0], -sign * points[n][1])):
        value = sign * points[position][1]
        if best is None or value > best:
            best = value
            found.append(position)
    return found


def _draw_costs(axes: Any, points: list[tuple[float, float, Row]], metric: str, cost: Axis) -> None:
    name, more_is_better = METRICS[metric]
    factor = 100 if name.endswith("%") else 1
    xs, ys = [x for x, _, _ in points], [factor * y for _, y, _ in points]
    best = front([(x, y) for x, y, _ in points], more_is_better)
    axes.plot([xs[n] for n in best], [ys[n] for n in best], color=_LINE, linewidth=1.2, drawstyle="steps-post")
    for (x, y), names in _labels(xs, ys, [str(row["name"]) for _, _, row in points]):
        axes.annotate(plain_text(names), (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8)
    for n, (x, _, row) in enumerate(points):
        if cost.spread is not None:
            low, high = cost.spread(row)
            axes.hlines(ys[n], low, high, color=_INK, linewidth=0.8)
        on_front = n in best
        axes.plot(x, ys[n], "o", color=_LINE, markersize=6, markerfacecolor=_LINE if on_front else "none")
    plain = "{x:,.3g}" if max(xs) < 1000 else "{x:,.0f}"
    if max(xs) > WIDE * min(xs) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(plain)
        axes.xaxis.set_minor_formatter("")
    else:
        axes.set_xlim(0, 1.25 * max(xs))
        axes.xaxis.set_major_formatter(plain)
        axes.locator_params(axis="x", nbins=4)
    axes.margins(y=0.2)
    axes.set_xlabel(cost.label)
    axes.set_ylabel(name)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_tolerated(axes: Any, first: float, max_drop: float, metric: str) -> None:
    """The line that no stage should be beyond."""
    name, more_is_better = METRICS[metric]
    limit = (100 if name.endswith("%") else 1) * (first - max_drop if more_is_better else first + max_drop)
    axes.axhline(limit, color=_INK, linewidth=0.8, linestyle="--", zorder=0)
    axes.annotate(
        "tolerated", (0.99, limit), xycoords=("axes fraction", "data"), xytext=(0, -2), textcoords="offset points",
        ha="right", va="top", fontsize=7,
    )  # fmt: skip


def _labels(
    xs: Sequence[float], ys: Sequence[float], names: Sequence[str]
) -> Iterator[tuple[tuple[float, float], str]]:
    """One label for points that lie so near each other that theirs would overlap."""
    left = list(range(len(xs)))
    while left:
        n = left.pop(0)
        near = [m for m in left if _near(xs[n], xs[m], max(xs)) and _near(ys[n], ys[m], max(ys) - min(ys))]
        left = [m for m in left if m not in near]
        yield (xs[n], ys[n]), "\n".join(_short(names[m]) for m in (*reversed(near), n))


def _near(one: float, other: float, whole: float) -> bool:
    return abs(one - other) <= _OVERLAP * whole


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 3] + "..."


def memory_chart(steps: Sequence[Row]) -> str:
    """Bytes alive at each operator, in order; the fullest moment is named.

    Args:
        steps: What `memory_over_time` gave.
    """
    if not steps:
        return ""
    sizes = [step["bytes"] for step in steps]
    peak = max(range(len(sizes)), key=sizes.__getitem__)
    with _theme():
        figure = figure_of(9.0, 2.6)
        axes = figure.subplots()
        axes.stairs(sizes, fill=True, color=_LINE, alpha=0.35)
        axes.stairs(sizes, color=_LINE)
        axes.plot(peak + 0.5, sizes[peak], "v", color=_INK, markersize=5)
        said = f"{sizes[peak]:,} B at operator {peak + 1}, {steps[peak]['operator']}"
        side = "left" if peak < len(sizes) / 2 else "right"
        axes.annotate(
            plain_text(said), (peak + 0.5, sizes[peak]), xytext=(0, 6), textcoords="offset points", ha=side, fontsize=8
        )
        axes.set_ylim(0, 1.2 * max(*sizes, 1))
        axes.set_xlim(0, len(sizes))
        axes.set_xlabel("operators, in the order in which they run")
        axes.set_ylabel("bytes")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.spines[["top", "right"]].set_visible(False)
        return _svg(figure, "memory")


@dataclass(frozen=True)
class _Group:
    name: str
    width: int
    values: tuple[float, ...]


@dataclass(frozen=True)
class _Scan:
    """A scan read back from figures, as `sensitivity_plot` draws it."""

    criterion: str
    unpruned: float
    tried: tuple[float, ...]
    unit: str
    tried_are: str
    begins_at: float | None
    measured: str
    groups: tuple[_Group, ...]
    parts: ClassVar[tuple[str, ...]] = ("groups",)


_OF_SCAN = ("criterion", "unpruned", "unit", "tried_are", "begins_at", "measured")


def sensitivity_figures(scan: Any) -> dict[str, Any]:
    """What `kc.sensitivity` found, as JSON types."""
    several = len(scan.parts) > 1
    return {
        **{key: getattr(scan, key) for key in _OF_SCAN},
        "tried": [float(each) for each in scan.tried],
        "groups": [
            {
                "name": f"{group.name} ({part})" if several else group.name,
                "width": int(group.width),
                "values": [float(value) for value in group.values],
            }
            for part in scan.parts
            for group in getattr(scan, part)
        ],
    }


def sensitivity_chart(figures: Row, max_drop: float | None = None) -> str:
    """The curves of a scan, or its map.

    Args:
        figures: What `sensitivity_figures` gave.
        max_drop: A tolerated loss of the metric, to be drawn.
    """
    groups = tuple(_Group(str(g["name"]), int(g["width"]), tuple(g["values"])) for g in figures["groups"])
    # Figures of earlier versions do not name the metric.
    kept = {"measured": "metric", **{key: figures[key] for key in _OF_SCAN if key in figures}}
    with _theme():
        figure = sensitivity_plot(_Scan(tried=tuple(figures["tried"]), groups=groups, **kept), max_drop=max_drop)  # type: ignore[arg-type]
        return _svg(figure, "sensitivity")


def _theme() -> Any:
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise ImportError("Expected matplotlib: `pip install 'keras-compress[report]'`. Received: none") from error
    return mpl.rc_context(_THEME)


def _svg(figure: Any, salt: str) -> str:
    """The figure as an SVG element: the same bytes each time, no background, names escaped by matplotlib."""
    import matplotlib as mpl

    buffer = io.StringIO()
    # Elements refer to each other by names made from the salt, and several figures stand on one page.
    with mpl.rc_context({"svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    # Groups are numbered alike in every figure.
    text = re.sub(r'(<g id=")', rf"\1{salt}-", text)
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL).strip()
