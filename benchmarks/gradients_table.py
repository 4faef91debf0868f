"""The tables of `docs/gradient_compression.md`, made of the results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from post_training_table import page

Rows = Sequence[Mapping[str, Any]]


def _mean(rows: Rows, key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)


def table(results: Path) -> str:
    """A row for each codec with four workers: accuracy, bytes and milliseconds for each network."""
    found = json.loads((results / "gradients.json").read_text())
    rows = [row for row in found["rows"] if row["workers"] == 4]
    nets = list(dict.fromkeys(row["net"] for row in rows))
    head = ["codec", *(f"{net}: accuracy | bytes a step | times fewer | ms (transfer)" for net in nets)]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (4 * len(nets))]
    for codec in dict.fromkeys(row["codec"] for row in rows):
        cells = [codec]
        for net in nets:
            chosen = [row for row in rows if row["codec"] == codec and row["net"] == net]
            spent = f"{_mean(chosen, 'codec_ms'):.1f} ({_mean(chosen, 'transfer_ms'):.0f})" if "32" not in codec else ""
            cells += [
                f"{100 * _mean(chosen, 'accuracy'):.2f} %",
                f"{_mean(chosen, 'bytes_per_step'):,.0f}",
                f"{_mean(chosen, 'times_fewer'):.1f}",
                spent,
            ]
        lines.append("| " + " | ".join(cells) + " |")
    met = sum(goal["met"] for goal in found["goals"])
    told = f"{found['machine']['cpu']}; four shards; means over {len(found['seeds'])} seeds."
    return "\n".join([*lines, "", told, "", f"Goals: {met} of {len(found['goals'])} met.", ""])


TABLES = {"gradients table": ("gradients", table)}

if __name__ == "__main__":
    folder = Path(__file__).resolve().parent
    path = folder.parent / "docs" / "gradient_compression.md"
    path.write_text(page(path, TABLES, folder / "results"))
