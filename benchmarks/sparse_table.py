"""The tables of `docs/sparsity.md`, made of the results."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from post_training_table import page

FILES = ("sparse float32", "dense int8", "sparse int8")


def _found(results: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((results / "sparse_speed.json").read_text())
    return found


def _rows(results: Path, part: str) -> list[dict[str, Any]]:
    return [row for row in _found(results)["rows"] if row["part"] == part]


def _table(columns: Sequence[str], lines: Sequence[Sequence[str]], plain: int = 1) -> str:
    head = ["| " + " | ".join(columns) + " |", "|" + "---|" * plain + "---:|" * (len(columns) - plain)]
    return "\n".join([*head, *("| " + " | ".join(cells) + " |" for cells in lines)]) + "\n"


def _times(rows: Sequence[dict[str, Any]], name: Callable[[dict[str, Any]], str]) -> str:
    """Milliseconds of the dense float32 file, and how many times faster and in how many bytes the others are."""
    columns = ["net", "zeros", "dense float32, ms", *(f"{file}, times faster" for file in FILES), "MB of the four"]
    lines = []
    for row in rows:
        size = ", ".join(f"{row['bytes'][file] / 1e6:.2f}" for file in ("dense float32", *FILES))
        faster = [f"{row['faster'][file]:.2f}" for file in FILES]
        base = f"{row['latency']['dense float32']['p10_ms']:.3f}"
        lines.append([name(row), f"{row['share']:.0%}", base, *faster, size])
    return _table(columns, lines)


def dense(results: Path) -> str:
    """Nets of two hidden layers."""
    found = _found(results)
    machine = found["machine"]
    told = (
        f"{machine['cpu']}, one thread, one sample, files in turns in one process, {found['settings']['runs']} runs; "
        f"load average {machine['load_average'][0]} on {machine['cores']} cores: look at ratios, not at milliseconds. "
        "Tenth percentiles, since other work slows single runs. Dense files hold the same zeros.\n"
    )
    table = _times(_rows(results, "dense"), lambda row: f"2 x {row['width']}")
    return "\n".join([table, told, _goals(found)])


def warm(results: Path) -> str:
    """Sparse and dense files of one type, two in turns."""
    lines = [
        [f"2 x {row['width']}", f"{row['share']:.0%}", *(f"{row['faster'][kind]:.2f}" for kind in ("float32", "int8"))]
        for row in _rows(results, "warm")
    ]
    return _table(["net", "zeros", "float32: sparse over dense, times faster", "int8: the same"], lines)


def _goals(found: dict[str, Any]) -> str:
    missed = [goal for goal in found["goals"] if not goal["met"]]
    lines = [f"Goals: {len(found['goals']) - len(missed)} of {len(found['goals'])} met."]
    lines += [f"- **missed**: {goal['name']}: {goal['value']:.3g} ({goal['bound']})" for goal in missed]
    return "\n".join(lines) + "\n"


def transformer(results: Path) -> str:
    """Dense layers of transformer blocks."""
    return _times(_rows(results, "transformer"), lambda row: f"{row['tokens']} token{'s' * (row['tokens'] > 1)}")


def accuracy(results: Path) -> str:
    """Points lost on Fashion-MNIST."""
    lines = []
    for row in _rows(results, "accuracy"):
        for share, value in row["accuracy"].items():
            size = row["files"][share]["bytes"]
            cells = [str(row["seed"]), f"{float(share):.0%}", f"{100 * row['dense']:.2f} %", f"{100 * value:.2f} %"]
            lines.append([*cells, f"{row['lost_points'][share]:.2f}", f"{size[0]:,}", f"{size[1]:,}"])
    columns = ["seed", "zeros", "dense", "pruned", "points lost", "bytes, sparse", "bytes, dense"]
    return _table(columns, lines)


def graphs(results: Path) -> str:
    """What was told of each graph, beside what LiteRT.js computed."""
    lines = []
    for row in _rows(results, "graph"):
        written = "refused" if not row["written"] else f"sparse, off by {row['written_difference']:.0e}"
        if "computes right" not in row["refusal"] and not row["written"]:
            written = "refused: nothing to skip"
        lines.append([row["graph"], row["told"], row["seen"], written])
    table = _table(["in the middle of a small net", "foretold", "computed by LiteRT.js", "convert"], lines, 4)
    told = "Foretold and computed of a file in which all 1x1 convolutions are sparse, whatever comes of it.\n"
    nets = [
        f"MobileNetV1, 224 x 224, {row['share']:.0%} zeros: {row['faster']:.2f} times faster in LiteRT.js "
        f"({row['latency']['dense float32']['p10_ms']:.1f} ms dense), outputs off by {row['difference']:.0e}; "
        f"{row['faster_litert_x86']:.2f} times in LiteRT on this x86 processor; "
        f"{row['bytes']['sparse float32'] / 1e6:.1f} MB for {row['bytes']['dense float32'] / 1e6:.1f} MB.\n"
        for row in _rows(results, "mobilenet")
    ]
    return "\n".join([table, told, *nets])


TABLES = {
    "dense table": ("sparse_speed", dense),
    "warm table": ("sparse_speed", warm),
    "transformer table": ("sparse_speed", transformer),
    "accuracy table": ("sparse_speed", accuracy),
    "graph table": ("sparse_speed", graphs),
}


if __name__ == "__main__":
    folder = Path(__file__).resolve().parent
    path = folder.parent / "docs" / "sparsity.md"
    path.write_text(page(path, TABLES, folder / "results"))
