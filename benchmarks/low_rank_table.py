"""The tables of `docs/low_rank.md`, made of the results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from post_training_table import page

Rows = Sequence[Mapping[str, Any]]


def _results(results: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((results / f"{name}.json").read_text())
    return found


def _table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    return "\n".join([*head, *("| " + " | ".join(cells) + " |" for cells in lines)]) + "\n"


def _mean(rows: Rows, key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)


def _percent(rows: Rows, key: str) -> str:
    return f"{100 * _mean(rows, key):.2f} %" if key in rows[0] else ""


def _goals(found: Mapping[str, Any]) -> str:
    """How many goals were met, and which were not."""
    missed = [goal for goal in found["goals"] if not goal["met"]]
    lines = [f"Goals: {len(found['goals']) - len(missed)} of {len(found['goals'])} met."]
    lines += [f"- **missed**: {goal['name']}: {goal['value']:.3g} ({goal['bound']})" for goal in missed]
    return "\n".join(lines) + "\n"


def accuracy(results: Path) -> str:
    """Each way at one target: accuracy at once, trained on, of the int8 files, and how many times faster they run."""
    found = _results(results, "low_rank")
    rows = [row for row in found["rows"] if "macs" in row]
    names = list(dict.fromkeys(row["name"] for row in rows))
    columns = ["method", "MACs", "at once", "trained on", "int8", "int8, equalized", "float32 ms", "int8 ms"]
    lines = []
    for name in names:
        own = [row for row in rows if row["name"] == name]
        files = ("int8, accuracy", "int8, equalized, accuracy")
        cells = [name, f"{100 * _mean(own, 'macs'):.0f} %", _percent(own, "before"), _percent(own, "accuracy")]
        lines.append([*cells, *(_percent(own, key) for key in files), *_times(own)])
    seeds = len(found["seeds"])
    settings = found["settings"]
    told = (
        f"{found['machine']['cpu']}, one thread; means over {seeds} seeds; {settings['epochs']} epochs on "
        f"{settings['trained']:,} images, {settings['tuned']} more for each way.\n"
    )
    return "\n".join([_table(columns, lines), told, _goals(found)])


def _times(rows: Rows) -> list[str]:
    """Medians of both files."""
    keys = ("float32, ms", "int8, ms")
    return [f"{sum(row[key][0] for row in rows) / len(rows):.3f}" if key in rows[0] else "" for key in keys]


def ranks(results: Path) -> str:
    """SVD at equal ranks, with data and without, before training."""
    rows = [row for row in _results(results, "low_rank")["rows"] if "share" in row]
    lines = []
    for share in dict.fromkeys(row["share"] for row in rows):
        own = [row for row in rows if row["share"] == share]
        cells = [
            f"{_percent(own, f'{kind}, accuracy')}, {_mean(own, f'{kind}, sqnr_db'):.1f} dB"
            for kind in ("plain", "with data")
        ]
        lines.append([f"{share:.0%} of the full rank", *cells])
    return _table(["rank", "svd", "svd, with data"], lines)


def speed(results: Path) -> str:
    """Large networks at half their multiply-accumulates."""
    found = _results(results, "low_rank_speed")
    lines = []
    for row in found["rows"]:
        before, after = (f"{each['median_ms']:.1f}" for each in row["latency"])
        macs, params = (" -> ".join(f"{n / unit:.2f}" for n in row[k]) for k, unit in (("macs", 1e9), ("params", 1e6)))
        ratio = f"{row['speedup']:.2f} (goal {row['goal']})"
        lines.append([f"{row['network']}, {row['mode']}", macs, params, f"{before} -> {after}", ratio])
    table = _table(["network", "GMACs", "M parameters", "ms", "times faster"], lines)
    return "\n".join([table, f"{found['machine']['cpu']}, one thread, medians in turns.\n", _goals(found)])


def winograd(results: Path) -> str:
    """Rates of convolutions with as many multiply-accumulates, then decibels of each way to compute one in 8 bits."""
    found = _results(results, "winograd")
    rates = [row for row in found["rows"] if "mode" in row]
    lines = [
        [
            f"{row['mode']}, {row['channels']} channels, {row['side']}x{row['side']}",
            *(f"{row['gflop_per_s'][kind]:.0f}" for kind in ("3x3", "1x9", "1x1")),
            f"{row['ratio']:.2f}",
        ]
        for row in rates
    ]
    speeds = _table(["convolution", "3x3, G/s", "1x9, G/s", "1x1, G/s", "3x3 over 1x9"], lines)
    near = [[row["way"], f"{row['sqnr_db']:.1f} dB"] for row in found["rows"] if "way" in row]
    return "\n".join([speeds, _table(["computed", "beside real numbers"], near)])


TABLES = {
    "accuracy table": ("low_rank", accuracy),
    "rank table": ("low_rank", ranks),
    "speed table": ("low_rank_speed", speed),
    "winograd table": ("winograd", winograd),
}


if __name__ == "__main__":
    folder = Path(__file__).resolve().parent
    path = folder.parent / "docs" / "low_rank.md"
    path.write_text(page(path, TABLES, folder / "results"))
