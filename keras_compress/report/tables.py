"""Tables for the terminal: stages of a compression side by side, and the weights of one file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_compress.core.printable import printable

if TYPE_CHECKING:
    from rich.table import Table

    from keras_compress.post_training.compare import PassReport
    from keras_compress.report.summary import ModelSummary, WeightRow
    from keras_compress.tflite.inspection import FileStats, TensorStats

NOT_AVAILABLE = "not available here"


def percent(fraction: float) -> str:
    """A fraction as a percentage with two decimals; the sign is in the heading.

    >>> percent(0.97222)
    '97.22'
    """
    return f"{100 * fraction:.2f}"


def count(number: float) -> str:
    """A whole number with separators.

    >>> count(61680)
    '61,680'
    """
    return f"{round(number):,}"


def latency(figures: Mapping[str, float]) -> str:
    """Median and, in a second line, spread in ms.

    >>> latency({"median": 0.0123, "p10": 0.0119, "p90": 0.0131}).split("\\n")
    ['0.0123', '0.0119-0.0131']
    """
    # Small models answer in microseconds: three decimals would hide the spread.
    digits = 4 if figures["median"] < 0.1 else 3
    median, low, high = (f"{figures[key]:.{digits}f}" for key in ("median", "p10", "p90"))
    return f"{median}\n{low}-{high}"


# Heading, key in the row, format of a value that is there. The order is that of the table.
_COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("acc.\n%", "accuracy", percent),
    ("sim.\nacc. %", "simulated_accuracy", percent),
    ("file\nB", "raw_bytes", count),
    ("gzip\nB", "gzip_bytes", count),
    ("weights\nB", "weight_payload_bytes", count),
    ("zeros\n%", "sparsity", percent),
    ("distinct\nvalues", "distinct_values", count),
    ("LiteRT ms\np10-p90", "litert_latency_ms", latency),
    ("TFLM\narena B", "tflm_arena_bytes", count),
)


def measurement_table(rows: Sequence[Mapping[str, Any]], title: str | None = None) -> Table:
    """One row for each stage, one column for each figure that some stage has.

    Args:
        rows: Mappings with `name` and any of `accuracy`, `simulated_accuracy` and `sparsity` (fractions), `raw_bytes`,
            `gzip_bytes`, `weight_payload_bytes`, `tflm_arena_bytes` (bytes), `distinct_values` (a number),
            `litert_latency_ms` (a mapping with `median`, `p10` and `p90`). `None` reads "not available here".
        title: Line above the table. Taken as it is written, like every string here: no markup.

    Raises:
        ValueError: For a row without a name.
    """
    if nameless := [dict(row) for row in rows if "name" not in row]:
        raise ValueError(f"Expected rows with a `name`. Received: {nameless[0]!r}")
    table = new_table(title)
    table.add_column("stage", overflow="fold")
    shown = [column for column in _COLUMNS if any(column[1] in row for row in rows)]
    for heading, key, _ in shown:
        # Words may wrap where the terminal is narrow, figures may not.
        whole = all(row.get(key) is not None for row in rows)
        table.add_column(heading, justify="right", overflow="fold", no_wrap=whole)
    for row in rows:
        table.add_row(
            cell_text(str(row["name"])), *(cell_text(_cell(row.get(key), show), "\n") for _, key, show in shown)
        )
    return table


def new_table(title: str | None, **options: Any) -> Table:
    """An empty table in the style that all of them have."""
    from rich import box
    from rich.table import Table

    # Narrow: the widest one has ten columns, and many terminals 80 characters.
    shape: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": 0, "pad_edge": False}
    return Table(title=None if title is None else cell_text(title), **shape, **options)


def cell_text(text: str, keep: str = "") -> str:
    """Text for a cell: no markup, and nothing that a terminal obeys."""
    from rich.markup import escape

    return escape(printable(text, keep))


def _cell(value: Any, show: Callable[[Any], str]) -> str:
    return NOT_AVAILABLE if value is None else show(value)


def tensor_table(stats: FileStats, title: str | None = None) -> Table:
    """The weights of a `.tflite` file, as read back from it, with a last row for the file.

    Args:
        stats: What `inspect_tflite` found. Names come from the file and are shown as they are, without markup.
        title: Line above the table.
    """
    table = new_table(title, show_footer=True)
    elements = sum(weight.elements for weight in stats.weights)
    columns = (
        ("tensor", f"{len(stats.weights)} weights"),
        ("operator", ""),
        ("shape", ""),
        ("type", ""),
        ("elements", count(elements)),
        ("bytes", count(stats.weight_payload_bytes)),
        ("zeros %", percent(stats.sparsity)),
        ("distinct\nvalues", f"<= {stats.distinct_values}"),
        ("scales", ""),
        ("entropy\nbits", ""),
    )
    for position, (heading, footer) in enumerate(columns):
        table.add_column(heading, footer, justify="left" if position < 4 else "right", overflow="fold")
    for weight in stats.weights:
        cells = (
            weight.name,
            weight.op,
            "x".join(map(str, weight.shape)),
            weight.dtype,
            count(weight.elements),
            count(weight.bytes),
            percent(weight.sparsity),
            count(weight.distinct_values),
            count(weight.scale_count),
            f"{weight.entropy_bits:.2f}",
        )
        table.add_row(*map(cell_text, cells))
    return table


def storage_table(stats: FileStats, title: str | None = None) -> Table:
    """How each weight of a `.tflite` file is stored, and what it would take in the other storages.

    Args:
        stats: What `inspect_tflite` found, with `alternatives=True` for the other storages.
        title: Line above the table.
    """
    table = new_table(title, show_footer=True)
    elements = sum(weight.elements for weight in stats.weights)
    others = [*dict.fromkeys(key for weight in stats.weights for key in weight.alternatives or ())]
    columns = (
        ("tensor", f"{len(stats.weights)} weights"),
        ("stored\nas", ""),
        ("bytes", count(stats.weight_payload_bytes)),
        ("bits per\nweight", f"{8 * stats.weight_payload_bytes / elements:.2f}" if elements else ""),
        *((f"as {key}\nbytes", "") for key in others),
    )
    for position, (heading, footer) in enumerate(columns):
        table.add_column(heading, footer, justify="left" if position < 2 else "right", overflow="fold")
    for weight in stats.weights:
        cells = (
            weight.name,
            weight.storage,
            count(weight.bytes),
            f"{weight.bits_per_weight:.2f}",
            *(_alternative(weight, key) for key in others),
        )
        table.add_row(*map(cell_text, cells))
    return table


def _alternative(weight: TensorStats, storage: str) -> str:
    """Bytes in another storage; empty where that cannot hold the weight."""
    size = (weight.alternatives or {}).get(storage)
    return "" if size is None else count(size)


def file_line(stats: FileStats) -> str:
    """Sizes and operators of a file in one line of plain text."""
    operators = ", ".join(f"{printable(name)} x{number}" for name, number in stats.operators.items())
    return (
        f"{count(stats.raw_bytes)} B in the file, {count(stats.gzip_bytes)} B gzipped, "
        f"{count(stats.weight_payload_bytes)} B of weights. Operators: {operators}"
    )


def summary_table(summary: ModelSummary) -> Table:
    """The weights of a Keras model, with a last row for all of them. See `keras_compress.report.summary`."""
    table = new_table(f"Compression of {summary.name}", show_footer=True)
    columns = (
        ("layer", f"{len(summary.rows)} weights"),
        ("transforms", ""),
        ("bits\nw/a", ""),
        ("zeros\n%", percent(summary.sparsity)),
        ("at end\n%", percent(summary.final_sparsity)),
        ("distinct\nvalues", ""),
        ("float32\nB", count(summary.float32_bytes)),
        ("packed\nB", count(summary.packed_bytes)),
        ("int8\nB", count(summary.int8_bytes)),
        ("MACs", _macs(summary.macs)),
    )
    for position, (heading, footer) in enumerate(columns):
        text = position < 2
        table.add_column(heading, footer, justify="left" if text else "right", overflow="fold", no_wrap=not text)
    for row in summary.rows:
        table.add_row(*(cell_text(cell, "\n") for cell in _summary_cells(row)))
    return table


def passes_table(report: PassReport) -> Table:
    """What passes of post-training quantization changed. See `keras_compress.post_training.compare`."""
    table = new_table(f"Signal to noise of {report.name} in dB: of weights, of outputs")
    rows = report.rows()
    columns = list(zip(*rows, strict=True))
    # A pass that changed nothing needs no column.
    shown = [0, *(n for n in range(1, len(columns)) if n == 1 or columns[n][1:] != columns[n - 1][1:])]
    for number in shown:
        table.add_column(
            rows[0][number].replace("_", "\n"),
            justify="right" if number else "left",
            overflow="fold",
            no_wrap=bool(number),
            min_width=0 if number else 16,
        )
    for row in rows[1:]:
        table.add_row(*(cell_text(printable(row[number])) for number in shown))
    return table


def _summary_cells(row: WeightRow) -> tuple[str, ...]:
    end = "-" if row.final_sparsity is None else percent(row.final_sparsity)
    return (
        printable(row.path if row.slot == "kernel" else f"{row.path} {row.slot}"),
        "\n".join(map(short_name, row.transforms)) or "-",
        f"{row.weight_bits}/{row.activation_bits}",
        percent(row.sparsity),
        end if row.group is None else f"{end}\n({printable(row.group)})",
        count(row.distinct_values),
        count(row.float32_bytes) if row.counted else "(shared)",
        count(row.packed_bytes) if row.counted else "",
        count(row.int8_bytes) if row.counted else "",
        _macs(row.macs),
    )


def _macs(macs: int | None) -> str:
    return "?" if macs is None else count(macs)


def short_name(transform: str) -> str:
    """A transform's class name without the word for its role.

    >>> short_name("MagnitudePruner"), short_name("Pact")
    ('Magnitude', 'Pact')
    """
    return re.sub(r"(?<=.)(Pruner|Clusterer|Quantizer)$", "", transform)
