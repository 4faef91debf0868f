"""Figures of a report -> one HTML file. Every name in it may be hostile: the template escapes what it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from keras_compress.core.printable import printable
from keras_compress.report.page.charts import METRICS, memory_chart, pareto_chart, sensitivity_chart
from keras_compress.report.page.distribution import path_of
from keras_compress.report.page.file_map import KINDS
from keras_compress.report.tables import NOT_AVAILABLE, count, latency, percent

# Parts of the file that have a line of their own.
_MOST_PARTS = 12
_STAGE_COLUMNS = (
    ("type", "arithmetic", str),
    ("accuracy, %", "accuracy", percent),
    ("simulated accuracy, %", "simulated_accuracy", percent),
    ("mean absolute error", "mean_absolute_error", "{:.5g}".format),
    ("simulated error", "simulated_mean_absolute_error", "{:.5g}".format),
    ("file, B", "raw_bytes", count),
    ("gzip, B", "gzip_bytes", count),
    ("weights, B", "weight_payload_bytes", count),
    ("zeros, %", "sparsity", percent),
    ("distinct values", "distinct_values", count),
    ("LiteRT, ms (p10-p90)", "litert_latency_ms", latency),
    ("TFLM arena, B", "tflm_arena_bytes", count),
    ("energy, uJ (45 nm model)", "energy_uj", "{:.3g}".format),
)


def html_of(figures: Mapping[str, Any]) -> str:
    """The page.

    Args:
        figures: What `report` gathered, or the same read back from JSON.

    Raises:
        ImportError: Without jinja2 and matplotlib.
    """
    try:
        import jinja2
    except ImportError as error:
        raise ImportError("Expected jinja2: `pip install 'keras-compress[report]'`. Received: none") from error
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(count=count, percent=percent, path=path_of, text=_text, ratio=_ratio)
    source = resources.files("keras_compress.report.page").joinpath("page.html.j2").read_text("utf-8")
    figures = {"file": {}, **{key: [] for key in _LISTS}, **dict.fromkeys(_OPTIONAL), **figures}
    scan = figures["sensitivity"]
    page: str = environment.from_string(source).render(
        **figures,
        headline=headline(figures["stages"]),
        stage_table=_stage_table(figures["stages"]),
        parts=_parts(figures["map"]),
        kinds=_by_kind(figures["map"]),
        number_of={kind: number for number, kind in enumerate(KINDS)},
        pareto_svg=pareto_chart(figures["stages"], figures["max_drop"]),
        memory_svg=memory_chart(figures["memory"]),
        sensitivity_svg="" if scan is None else sensitivity_chart(scan, figures["max_drop"]),
    )
    return page


_OPTIONAL = ("sensitivity", "command", "max_drop")
_LISTS = ("stages", "map", "weights", "layers", "memory", "outputs", "kernels", "notes", "phone")


def _text(value: Any) -> str:
    """A name without what browsers or terminals obey."""
    return printable(str(value))


def _ratio(value: float, whole: float) -> str:
    """`value` as a share of `whole`, for a width in CSS."""
    return f"{100 * value / max(whole, 1):.2f}"


def headline(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the last stage gained and lost against the first, a sentence each.

    Args:
        rows: The stages.

    >>> headline([{"name": "float", "raw_bytes": 4000, "accuracy": 0.9},
    ...           {"name": "int8", "raw_bytes": 1000, "accuracy": 0.89}])
    ['int8 takes 1,000 bytes, 4.0 times less than float (4,000).', 'Its accuracy is 89.00 %, 1.00 points lower.']
    """
    if not rows:
        return []
    first, last = rows[0], rows[-1]
    said = [f"{_text(last['name'])} takes {count(last['raw_bytes'])} bytes."]
    if last is first:
        return said
    times = _times(last["raw_bytes"], first["raw_bytes"], "less than", "more than", "as much as")
    said = [
        f"{_text(last['name'])} takes {count(last['raw_bytes'])} bytes, "
        f"{times} {_text(first['name'])} ({count(first['raw_bytes'])})."
    ]
    return [*said, *_metric_changed(first, last), *_latency_changed(first, last), *energy_saved(rows)]


def _metric_changed(first: Mapping[str, Any], last: Mapping[str, Any]) -> list[str]:
    key = next((key for key in METRICS if first.get(key) is not None and last.get(key) is not None), None)
    if key is None:
        return []
    if key != "accuracy":
        return [f"Its mean absolute error is {last[key]:.5g}; that of {_text(first['name'])} is {first[key]:.5g}."]
    points = 100 * (last[key] - first[key])
    way = "higher" if points > 0 else "lower"
    change = "the same" if abs(points) < 0.005 else f"{abs(points):.2f} points {way}"
    return [f"Its accuracy is {percent(last[key])} %, {change}."]


def _latency_changed(first: Mapping[str, Any], last: Mapping[str, Any]) -> list[str]:
    now, before = last.get("litert_latency_ms"), first.get("litert_latency_ms")
    if not now or not before:
        return []
    verdict = "no difference beyond the spread"
    if now["p90"] < before["p10"] or before["p90"] < now["p10"]:
        verdict = _times(now["median"], before["median"], "faster", "slower", "as fast")
    return [
        f"One sample takes {now['median']:.3g} ms on this computer's CPU, where {_text(first['name'])} takes "
        f"{before['median']:.3g} ms: {verdict}."
    ]


def energy_saved(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What an inference of each stage takes by the 45 nm table, and what the last one saves, in a sentence.

    >>> print(*energy_saved([{"name": "float", "energy_uj": 8.0}, {"name": "int8", "energy_uj": 2.0}]))
    By a model (published energies in 45 nm) an inference takes 8 uJ (float), 2 uJ (int8): 4.0 times less than
    float.
    """
    known = [row for row in rows if row.get("energy_uj")]
    if len(known) < 2:
        return []
    listed = ", ".join(f"{row['energy_uj']:.3g} uJ ({_text(row['name'])})" for row in known)
    first, last = known[0], known[-1]
    times = _times(last["energy_uj"], first["energy_uj"], "less than", "more than", "as much as")
    return [f"By a model (published energies in 45 nm) an inference takes {listed}: {times} {_text(first['name'])}."]


def _times(now: float, before: float, less: str, more: str, same: str) -> str:
    """`4.0 times less than`, `1.2 times more than`, `about as much as`."""
    small, large = sorted((now, before))
    if large < 1.05 * small:
        return f"about {same}"
    return f"{large / max(small, 1e-12):.1f} times {less if now <= before else more}"


def _stage_table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    shown = [column for column in _STAGE_COLUMNS if any(column[1] in row for row in rows)]
    return {
        "heads": [heading for heading, _, _ in shown],
        "rows": [
            (row["name"], [NOT_AVAILABLE if row.get(key) is None else show(row[key]) for _, key, show in shown])
            for row in rows
        ],
    }


def _parts(parts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The largest parts, and the others of each kind together."""
    largest = sorted(parts, key=lambda part: -part["bytes"])
    shown, others = largest[:_MOST_PARTS], largest[_MOST_PARTS:]
    together = [
        {"name": f"{sum(p['kind'] == kind for p in others)} more", "kind": kind, "bytes": size}
        for kind in KINDS
        if (size := sum(part["bytes"] for part in others if part["kind"] == kind))
    ]
    return [*shown, *together]


def _by_kind(parts: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    found = [(kind, sum(part["bytes"] for part in parts if part["kind"] == kind)) for kind in KINDS]
    return [(kind, size) for kind, size in found if size]
