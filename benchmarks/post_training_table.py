"""The table of `docs/post_training.md`, made of the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"


def table(results: Path) -> str:
    """Accuracy and signal to noise of each row, a column for each width of weights."""
    rows = json.loads((results / "post_training.json").read_text())["rows"]
    lines = []
    for net in dict.fromkeys(row["net"] for row in rows):
        own = [row for row in rows if row["net"] == net]
        columns = list(dict.fromkeys((row["bits"], row["relu6"]) for row in own if "bits" in row))
        lines += [
            f"**{net}**{_float(own)}",
            "",
            "| passes | " + " | ".join(_heading(c, columns) for c in columns) + " |",
        ]
        lines.append("|---|" + "---:|" * len(columns))
        for name in dict.fromkeys(row["name"] for row in own if "bits" in row):
            cells = [_cell(own, name, *column) for column in columns]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _float(rows: list[dict[str, Any]]) -> str:
    exact = [row["accuracy"] for row in rows if row["name"].startswith("float")]
    return f": float {sum(exact[::2]) / len(exact[::2]):.2f} %" if exact else ""


def _heading(column: tuple[int, str], columns: list[tuple[int, str]]) -> str:
    bits, relu6 = column
    return f"{bits} bits" if len({each[1] for each in columns}) == 1 else f"{bits} bits, {relu6}"


def _cell(rows: list[dict[str, Any]], name: str, bits: int, relu6: str) -> str:
    found = [row for row in rows if (row["name"], row.get("bits"), row.get("relu6")) == (name, bits, relu6)]
    if not found:
        return ""
    mean = {key: sum(row[key] for row in found) / len(found) for key in ("accuracy", "output_sqnr_db")}
    return f"{mean['accuracy']:.2f} %, {mean['output_sqnr_db']:.1f} dB"


def page(results: Path) -> str:
    """The page with the table of the results."""
    text = (Path(__file__).resolve().parent.parent / "docs" / "post_training.md").read_text()
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + table(results) + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    folder = Path(__file__).resolve().parent
    (folder.parent / "docs" / "post_training.md").write_text(page(folder / "results"))
