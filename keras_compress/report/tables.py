"""Tables for the terminal: stages of a compression side by side, and the weights of one file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_compress.core.printable import printable
from keras_compress.report.sheet import Column, Sheet

if TYPE_CHECKING:
    from keras_compress.post_training.compare import PassReport
    from keras_compress.report.summary import ModelSummary, WeightRow
    from keras_compress.runtime.accumulators import AccumulatorBits
    from keras_compress.runtime.sparse_ready import SparseReady
    from keras_compress.tflite.inspection import FileStats, TensorStats

NOT_AVAILABLE = "not available here"
# Rows of the table of working memory.
MOST_OPERATORS = 12


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
    ("type", "arithmetic", str),
    ("acc.\n%", "accuracy", percent),
    ("sim.\nacc. %", "simulated_accuracy", percent),
    ("error", "mean_absolute_error", "{:.5g}".format),
    ("sim.\nerror", "simulated_mean_absolute_error", "{:.5g}".format),
    ("file\nB", "raw_bytes", count),
    ("gzip\nB", "gzip_bytes", count),
    ("weights\nB", "weight_payload_bytes", count),
    ("zeros\n%", "sparsity", percent),
    ("distinct\nvalues", "distinct_values", count),
    ("LiteRT ms\np10-p90", "litert_latency_ms", latency),
    ("TFLM\narena B", "tflm_arena_bytes", count),
)
# Figures that stand beside the first row's: how many times less this one is.
_COMPARED = ("raw_bytes", "gzip_bytes", "weight_payload_bytes", "tflm_arena_bytes")


def measurement_table(rows: Sequence[Mapping[str, Any]], title: str | None = None) -> Sheet:
    """One row for each stage, one column for each figure that some stage has.

    Bytes of all rows but the first have a second line: how often they go into the first row's.

    Args:
        rows: Mappings with `name` and any of `arithmetic` (see `keras_compress.tflite.arithmetic`), `accuracy`,
            `simulated_accuracy` and `sparsity` (fractions), `mean_absolute_error`, `raw_bytes`, `gzip_bytes`,
            `weight_payload_bytes`, `tflm_arena_bytes` (bytes), `distinct_values` (a number), `litert_latency_ms` (a
            mapping with `median`, `p10` and `p90`). `None` reads "not available here".
        title: Line above the table. Taken as it is written, like every string here: no markup.

    Raises:
        ValueError: For no rows, or one without a name.
    """
    if not rows:
        raise ValueError("Expected at least one row. Received: none")
    if nameless := [dict(row) for row in rows if "name" not in row]:
        raise ValueError(f"Expected rows with a `name`. Received: {nameless[0]!r}")
    columns = [Column("stage", [str(row["name"]) for row in rows], text=True)]
    for heading, key, show in _COLUMNS:
        if any(key in row for row in rows):
            cells = [_cell(row.get(key), show) + _times_less(row, rows[0], key) for row in rows]
            columns.append(Column(heading, cells, text=key == "arithmetic"))
    return Sheet(columns, title)


def _cell(value: Any, show: Callable[[Any], str]) -> str:
    return NOT_AVAILABLE.replace(" ", "\n") if value is None else show(value)


def _times_less(row: Mapping[str, Any], first: Mapping[str, Any], key: str) -> str:
    """A second line for a cell: the first row's figure over this one."""
    if key not in _COMPARED or row is first or not row.get(key) or not first.get(key):
        return ""
    return f"\n{times(first[key] / row[key])}"


def times(ratio: float) -> str:
    """A ratio in three digits, with the sign for it.

    >>> times(4.0), times(0.98765), times(123.4)
    ('4.00x', '0.99x', '123x')
    """
    return f"{ratio:.{2 if ratio < 10 else 1 if ratio < 100 else 0}f}x"


def tensor_table(stats: FileStats, title: str | None = None) -> Sheet:
    """The weights of a `.tflite` file, as read back from it, with a last row for the file.

    Args:
        stats: What `inspect_tflite` found. Names come from the file and are shown as they are, without markup.
        title: Line above the table.
    """
    weights = stats.weights
    shapes = ["x".join(map(str, weight.shape)) for weight in weights]
    elements = [weight.elements for weight in weights]
    columns = [
        Column("tensor", [weight.name for weight in weights], f"{len(weights)} weights", text=True),
        Column("operator", [weight.op for weight in weights], text=True),
        Column("shape", shapes, text=True),
        Column("type", [weight.dtype for weight in weights], text=True),
        Column("bytes", [count(weight.bytes) for weight in weights], count(stats.weight_payload_bytes)),
        Column("zeros\n%", [percent(weight.sparsity) for weight in weights], percent(stats.sparsity)),
        Column("distinct\nvalues", [count(weight.distinct_values) for weight in weights], f"<={stats.distinct_values}"),
        Column("elements", list(map(count, elements)), count(sum(elements))),
        Column("scales", [count(weight.scale_count) for weight in weights]),
        Column("entropy\nbits", [f"{weight.entropy_bits:.2f}" for weight in weights]),
    ]
    return Sheet(columns, title)


def storage_table(stats: FileStats, title: str | None = None) -> Sheet:
    """How each weight of a `.tflite` file is stored, and what it would take in the other storages.

    Args:
        stats: What `inspect_tflite` found, with `alternatives=True` for the other storages.
        title: Line above the table.
    """
    weights = stats.weights
    elements = sum(weight.elements for weight in weights)
    bits = f"{8 * stats.weight_payload_bytes / elements:.2f}" if elements else ""
    others = [*dict.fromkeys(key for weight in weights for key in weight.alternatives or ())]
    columns = [
        Column("tensor", [weight.name for weight in weights], f"{len(weights)} weights", text=True),
        Column("stored\nas", [weight.storage for weight in weights], text=True),
        Column("bytes", [count(weight.bytes) for weight in weights], count(stats.weight_payload_bytes)),
        Column("bits per\nweight", [f"{weight.bits_per_weight:.2f}" for weight in weights], bits),
        *(Column(f"as {key}\nbytes", [_alternative(weight, key) for weight in weights]) for key in others),
    ]
    return Sheet(columns, title)


def sparse_table(found: SparseReady, title: str | None = None) -> Sheet:
    """Dense layers and 1x1 convolutions, and whether `convert` stores them so that zeros are skipped, and where.

    Args:
        found: What `kc.sparse_ready` gave.
        title: Line above the table.
    """
    rows, words = found.rows, {True: "sparse", False: "dense"}
    columns = [
        Column("layer", [row.layer for row in rows], text=True),
        Column("operator", [row.operator for row in rows], text=True),
        Column("zeros\n%", [percent(row.zeros) for row in rows]),
        Column("sparsity=\nauto", [words[row.auto] for row in rows], text=True),
        Column("sparsity=\nblock", [words[row.sparse] for row in rows], text=True),
        Column("by", [row.runtime.replace(", ", "\n") for row in rows], text=True),
    ]
    return Sheet(columns, title)


def accumulator_table(found: AccumulatorBits, title: str | None = None) -> Sheet:
    """The sums of each layer, and the bits that hold them, with a last row for all.

    Args:
        found: What `kc.accumulator_bits` gave.
        title: Line above the table.
    """
    rows, seen = found.rows, found.observed_bits
    columns = [
        Column("layer", [row.layer for row in rows], f"{len(rows)} layers", text=True),
        Column("operator", [row.operator for row in rows], text=True),
        Column("terms", [count(row.terms) for row in rows]),
        Column("step", [count(row.step) for row in rows]),
        Column("input\nfrom", [count(row.input_low) for row in rows]),
        Column("input\nto", [count(row.input_high) for row in rows]),
        Column("lowest\nsum", [count(row.low) for row in rows]),
        Column("highest\nsum", [count(row.high) for row in rows]),
        Column("bits", [str(row.bits) for row in rows], str(found.bits)),
    ]
    if seen is not None:
        columns += [
            Column("lowest\non data", [count(row.observed_low or 0) for row in rows]),
            Column("highest\non data", [count(row.observed_high or 0) for row in rows]),
            Column("bits\non data", [str(row.observed_bits) for row in rows], str(seen)),
        ]
    if found.width is not None:
        over = [percent(row.overflows or 0.0) for row in rows]
        columns.append(Column(f"beyond\n{found.width} bits, %", over))
    return Sheet(columns, title)


def memory_table(steps: Sequence[Mapping[str, Any]], title: str | None = None) -> Sheet:
    """The operators that need most working memory, the hungriest first.

    Args:
        steps: What `keras_compress.report.page.memory.memory_over_time` gave.
        title: Line above the table.
    """
    most = sorted(enumerate(steps, 1), key=lambda step: -step[1]["bytes"])[:MOST_OPERATORS]
    peak = max((step["bytes"] for step in steps), default=0) or 1
    columns = [
        Column("writes", [str(step["output"]) for _, step in most], text=True),
        Column("operator", [str(step["operator"]) for _, step in most], text=True),
        Column("as number", [f"{number:,}" for number, _ in most]),
        Column("RAM, bytes", [count(step["bytes"]) for _, step in most]),
        Column("of the\npeak, %", [f"{100 * step['bytes'] / peak:.1f}" for _, step in most]),
    ]
    return Sheet(columns, title)


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


def summary_table(summary: ModelSummary) -> Sheet:
    """The weights of a Keras model, with a last row for all of them. See `keras_compress.report.summary`."""
    headings = ("layer", "transforms", "bits\nw/a", "zeros\n%", "at end\n%", "distinct\nvalues")
    heads = (*headings, "float32\nB", "packed\nB", "int8\nB", "MACs")
    sizes = (summary.float32_bytes, summary.packed_bytes, summary.int8_bytes)
    shares = (percent(summary.sparsity), percent(summary.final_sparsity))
    footers = (f"{len(summary.rows)} weights", "", "", *shares, "", *map(count, sizes), _macs(summary.macs))
    rows = [_summary_cells(row) for row in summary.rows]
    columns = [
        Column(heading, [row[position] for row in rows], footer, text=position < 2)
        for position, (heading, footer) in enumerate(zip(heads, footers, strict=True))
    ]
    return Sheet(columns, f"Compression of {summary.name}")


def passes_table(report: PassReport) -> Sheet:
    """What passes of post-training quantization changed. See `keras_compress.post_training.compare`."""
    columns = list(zip(*report.rows(), strict=True))
    # A pass that changed nothing needs no column.
    shown = [0, *(n for n in range(1, len(columns)) if n == 1 or columns[n][1:] != columns[n - 1][1:])]
    made = [Column(columns[n][0].replace("_", "\n"), columns[n][1:], text=n == 0) for n in shown]
    return Sheet(made, f"Signal to noise of {report.name} in dB: of weights, of outputs")


def _summary_cells(row: WeightRow) -> tuple[str, ...]:
    end = "-" if row.final_sparsity is None else percent(row.final_sparsity)
    return (
        row.path if row.slot == "kernel" else f"{row.path} {row.slot}",
        "\n".join(map(short_name, row.transforms)) or "-",
        f"{row.weight_bits}/{row.activation_bits}",
        percent(row.sparsity),
        end if row.group is None else f"{end}\n({row.group})",
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
