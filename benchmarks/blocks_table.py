"""The tables of `docs/compact_blocks.md`, made of the results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from post_training_table import page

Rows = Sequence[Mapping[str, Any]]
COLUMNS = ["", "MACs, M", "parameters, k", "accuracy", "int8", "float32 ms", "int8 ms", "int8 kB", "arena kB"]


def _results(results: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((results / f"{name}.json").read_text())
    return found


def _table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    return "\n".join([*head, *("| " + " | ".join(cells) + " |" for cells in lines)]) + "\n"


def _of(rows: Rows, kind: str) -> dict[str, Rows]:
    """Name -> its rows of all seeds, by their MACs."""
    mine = [row for row in rows if row["kind"] == kind]
    names = dict.fromkeys(row["name"] for row in mine)
    return {name: [row for row in mine if row["name"] == name] for name in names}


def _mean(rows: Rows, key: str) -> float:
    return float(mean(row[key] for row in rows))


def _cells(name: str, rows: Rows) -> list[str]:
    times = [f"{mean(row[key][0] for row in rows):.3f}" if key in rows[0] else "" for key in ("float32_ms", "int8_ms")]
    shares = [f"{100 * _mean(rows, key):.2f} %" for key in ("accuracy", "int8_accuracy")]
    sizes = [f"{_mean(rows, key) / 1e3:.1f}" for key in ("int8_bytes", "arena")]
    counts = [f"{_mean(rows, 'macs') / 1e6:.2f}", f"{_mean(rows, 'params') / 1e3:.1f}"]
    return [name, *counts, *shares, *times, *sizes]


def _goals(found: Mapping[str, Any]) -> str:
    """How many goals were met, and which were not."""
    missed = [goal for goal in found["goals"] if not goal["met"]]
    lines = [f"Goals: {len(found['goals']) - len(missed)} of {len(found['goals'])} met."]
    lines += [f"- **missed**: {goal['name']}: {goal['value']:.3g} ({goal['bound']})" for goal in missed]
    return "\n".join(lines) + "\n"


def families(results: Path) -> str:
    """All networks, by their multiplications; those on the front, which none beats in both, in bold."""
    found = _results(results, "blocks")
    networks = dict(sorted(_of(found["rows"], "family").items(), key=lambda each: _mean(each[1], "macs")))
    best, lines = 0.0, []
    for name, rows in networks.items():
        front = _mean(rows, "accuracy") > best
        best = max(best, _mean(rows, "accuracy"))
        lines.append(_cells(f"**{name}**" if front else name, rows))
    settings, seeds = found["settings"], len(found["seeds"])
    told = (
        f"{found['machine']['cpu']}, one thread; means over {seeds} seed{'s' * (seeds > 1)}; "
        f"{settings['epochs']} epochs on {settings['trained']:,} images. "
        "In bold: no other has fewer MACs and a higher accuracy.\n"
    )
    return "\n".join([_table(COLUMNS, lines), told, _goals(found)])


def study(results: Path) -> str:
    """From ResNet to SSPQ: bytes of the files."""
    steps = _of(_results(results, "blocks")["rows"], "study")
    first = _mean(steps["ResNet"], "float32_bytes")
    lines = []
    for name, rows in steps.items():
        shipped = "int8_bytes" if name == "SSPQ" else "float32_bytes"
        accuracy = "int8_accuracy" if name == "SSPQ" else "accuracy"
        size = _mean(rows, shipped)
        counts = [f"{_mean(rows, 'macs') / 1e6:.2f}", f"{size / 1e3:,.1f}", f"{first / size:.1f}"]
        lines.append([name, *counts, f"{100 * _mean(rows, accuracy):.2f} %"])
    return _table(["", "MACs, M", "file kB", "times smaller", "accuracy of the file"], lines)


def forms(results: Path) -> str:
    """A VGG in compact forms at half of its multiplications."""
    rows = _results(results, "blocks")["rows"]
    whole, lines = _of(rows, "family")["vgg"], []
    for name, own in {"as it was": whole, **_of(rows, "form")}.items():
        before = f"{100 * _mean(own, 'before'):.2f} %" if "before" in own[0] else ""
        trained = [f"{100 * _mean(own, key):.2f} %" for key in ("accuracy", "int8_accuracy")]
        times = [f"{mean(row[key][0] for row in own):.3f}" for key in ("float32_ms", "int8_ms")]
        lines.append([name, f"{_mean(own, 'macs') / _mean(whole, 'macs'):.0%}", before, *trained, *times])
    return _table(["", "MACs", "at once", "trained on", "int8", "float32 ms", "int8 ms"], lines)


def moves(results: Path) -> str:
    """What shuffling and shifting add between two 1x1 convolutions."""
    found = _results(results, "blocks_moves")
    rows, lines = found["rows"], []
    columns = [f"{kind}: {name}" for kind in ("shuffle", "shift") for name in rows[0][f"{kind}_ms"]]
    for row in rows:
        about = f"{row['target']}, {row['mode']}, {row['side']}x{row['side']}x{row['channels']}"
        added = [1e3 * each for each in (*row["shuffle_ms"].values(), *row["shift_ms"].values())]
        lines.append([about, f"{1e3 * row['whole_ms']:.0f}", *(f"{each:.1f}" for each in added)])
    told = f"{found['machine']['cpu']}, one thread, in turns; microseconds, tenth percentiles.\n"
    return "\n".join([_table(["", "convolutions", *columns], lines), told])


TABLES = {
    "families table": ("blocks", families),
    "study table": ("blocks", study),
    "forms table": ("blocks", forms),
    "moves table": ("blocks_moves", moves),
}


if __name__ == "__main__":
    folder = Path(__file__).resolve().parent
    path = folder.parent / "docs" / "compact_blocks.md"
    path.write_text(page(path, TABLES, folder / "results"))
