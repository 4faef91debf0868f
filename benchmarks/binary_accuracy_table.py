"""The table of `docs/binary_ternary.md`: what each way to more accuracy gives, made of the results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import REPOSITORY, RESULTS
from low_rank_table import _goals, _table
from post_training_table import page

from keras_compress.convert.files import write_atomic

PAGE = REPOSITORY / "docs" / "binary_ternary.md"
HEADINGS = ("", "W/A", "seeds", "device, %", "points lost", "weights, thousands", "gzip kB", "CPU s to train")


def accuracies(results: Path) -> str:
    """Each row beside the float one."""
    found: dict[str, Any] = json.loads((results / "binary_accuracy.json").read_text())
    lines = [_line(row) for row in found["rows"] if "seeds" in row]
    sums = [_sums(row, found["settings"]) for row in found["rows"] if "seeds" in row and "sum_bits" in row]
    cpu = found["machine"]["cpu"]
    told = (
        f"Fashion-MNIST, VGG 16-32-64, int8 file on LiteRT with XNNPACK, 10,000 test images; {cpu}. Rows "
        "begin with one float model of each seed. Mean and standard deviation over seeds; differences below 0.3 points "
        "of rows with one seed say nothing.\n"
    )
    return "\n".join([told, _table(HEADINGS, lines), *sums, _goals(found)])


def _line(row: Mapping[str, Any]) -> list[str]:
    spread = f" ± {100 * row['deployed_accuracy_spread']:.2f}" if row["seeds"] > 1 else ""
    return [
        row["row"],
        row["bits"],
        str(row["seeds"]),
        f"{100 * row['deployed_accuracy']:.2f}{spread}",
        f"{row['points_lost']:.2f}" if "points_lost" in row else "",
        f"{row['parameters'] / 1e3:.1f}",
        f"{row['gzip_bytes'] / 1e3:.1f}",
        f"{row['train_cpu_s']:.0f}",
    ]


def _sums(row: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    return (
        f"Sums of products of {row['row']}: {row['sum_bits']} bits hold any, {row['observed_sum_bits']} bits those of "
        f"500 test images; {row['overflows']:.3%} are beyond {settings['wrapped_bits']} bits in the layer with most.\n"
    )


TABLES = {"accuracy table": ("binary_accuracy", accuracies)}


def write_section() -> None:
    """Write the table into the page."""
    write_atomic(PAGE, page(PAGE, TABLES, RESULTS).encode())


if __name__ == "__main__":
    write_section()
