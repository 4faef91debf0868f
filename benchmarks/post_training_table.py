"""The tables of `docs/post_training.md` and `docs/mixed_precision.md`, made of the results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

INT8 = """## Measured: int8 with data, beside others

`python benchmarks/ptq.py`: small nets on Fashion-MNIST (3 epochs on 12,000 images), quantized from the same 200 images
of the training set. Of the file on LiteRT's default kernels: distance of its logits from the float Keras model's and
accuracy, on all 10,000 test images, and CPU seconds from the trained model to the file. litert-quantizer gets all
samples as one batch: it averages the extremes of batches, so that one sample after the other gave it 14.8 dB.
"""
FEW_BITS = """## Measured: few bits, without labels

`python benchmarks/ptq_few_bits.py`: the same nets, 512 images, `quantize_post_training(model, x, weights="int4")` and
its like with nothing else said: `with_ranges`, `clip_weights`, `brecq`. Points of accuracy gained or lost against float
on 10,000 test images, distance of the logits, CPU seconds; simulated.
"""


def level_1(results: Path) -> str:
    """Accuracy and signal to noise of each row, a column for each width of weights."""
    rows = _rows(results, "post_training")
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
    return f"{_mean(found, 'accuracy'):.2f} %, {_mean(found, 'output_sqnr_db'):.1f} dB"


def int8(results: Path) -> str:
    """Of each net and maker what its file loses, and the CPU seconds until it is there."""

    def cell(decibels: float, right: float, seconds: float, _: float) -> str:
        return f"{decibels:.1f} dB, {right:.2f} %, {seconds:.1f} s"

    return _by_net(INT8, _rows(results, "ptq"), "maker", cell)


def few_bits(results: Path) -> str:
    """Accuracy of each net at few bits, signal to noise, CPU seconds."""

    def cell(decibels: float, right: float, seconds: float, exact: float) -> str:
        return f"{right - exact:+.2f}, {decibels:.1f} dB, {seconds:.0f} s"

    return _by_net(FEW_BITS, [row for row in _rows(results, "ptq_few_bits") if "bits" in row], "bits", cell)


def _by_net(head: str, rows: list[dict[str, Any]], key: str, cell: Callable[[float, float, float, float], str]) -> str:
    """A line for each net, a column for each value of a key; a cell from its means and the accuracy in float."""
    columns = list(dict.fromkeys(row[key] for row in rows if row[key] != "float"))
    lines = [head, "| net | float | " + " | ".join(columns) + " |", "|---|---:|" + "---:|" * len(columns)]
    for net in dict.fromkeys(row["net"] for row in rows):
        own = {name: [r for r in rows if (r["net"], r[key]) == (net, name)] for name in ("float", *columns)}
        exact = _mean(own["float"], "accuracy")
        cells = [f"{exact:.2f} %"]
        for name in columns:
            decibels, right, seconds = (_mean(own[name], k) for k in ("output_sqnr_db", "accuracy", "cpu_seconds"))
            cells.append(cell(decibels, right, seconds, exact))
        lines.append(f"| {net} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def gptq(results: Path) -> str:
    """Signal to noise of each layer of a Dense net, means over the seeds."""
    rows = [row for row in _rows(results, "ptq_few_bits") if "layer" in row]
    ways = [key for key in rows[0] if key not in ("net", "seed", "layer")]
    lines = ["| layer | " + " | ".join(ways) + " |", "|---|" + "---:|" * len(ways)]
    for layer in dict.fromkeys(row["layer"] for row in rows):
        own = [row for row in rows if row["layer"] == layer]
        lines.append(f"| {layer} | " + " | ".join(f"{_mean(own, way):.1f} dB" for way in ways) + " |")
    return "\n".join(lines) + "\n"


def mixed(results: Path) -> str:
    """Accuracy of each net by each way to choose bits, means over the seeds."""
    rows = [row for row in _rows(results, "mixed_precision") if "accuracy" in row]
    ways = list(dict.fromkeys(row["row"] for row in rows))
    lines = ["| net | " + " | ".join(ways) + " |", "|---|" + "---:|" * len(ways)]
    for net in dict.fromkeys(row["net"] for row in rows):
        cells = [[row for row in rows if (row["net"], row["row"]) == (net, way)] for way in ways]
        shown = (f"{100 * _mean(cell, 'accuracy'):.2f} %" if cell else "" for cell in cells)
        lines.append(f"| {net} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def trained(results: Path) -> str:
    """SPIQ, and level 3 beside level 2."""
    import ptq_trained

    return ptq_trained.tables(_rows(results, "ptq_trained")) + "\n"


# Name of the place on the page -> results that it needs, and what makes it.
TABLES = {
    "table": ("post_training", level_1),
    "int8 table": ("ptq", int8),
    "few bits table": ("ptq_few_bits", few_bits),
    "gptq table": ("ptq_few_bits", gptq),
    "trained table": ("ptq_trained", trained),
}
OF_BITS = {"table": ("mixed_precision", mixed)}
Tables = Mapping[str, tuple[str, Callable[[Path], str]]]


def _rows(results: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((results / f"{name}.json").read_text())["rows"]
    return found


def _mean(rows: Iterable[dict[str, Any]], key: str) -> float:
    found = [row[key] for row in rows]
    return sum(found) / len(found)


def page(path: Path, tables: Tables, results: Path) -> str:
    """A page with the tables of the results that are there."""
    text = path.read_text()
    for name, (needed, table) in tables.items():
        if not (results / f"{needed}.json").is_file() or f"<!-- {name} -->\n" not in text:
            continue
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        before, rest = text.split(begin)
        text = before + begin + "\n" + table(results) + "\n" + end + rest.split(end)[1]
    return text


if __name__ == "__main__":
    folder = Path(__file__).resolve().parent
    for name, tables in (("post_training", TABLES), ("mixed_precision", OF_BITS)):
        path = folder.parent / "docs" / f"{name}.md"
        path.write_text(page(path, tables, folder / "results"))
