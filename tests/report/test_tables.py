from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console
from rich.table import Table

from keras_compress.report import tables
from keras_compress.tflite.inspection import FileStats, TensorStats


def rendered(table: Table, width: int = 220) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    return console.file.getvalue()


def cells(text: str, marker: str) -> list[str]:
    """Words of the one line that holds `marker`; no name in these tests has a space."""
    (line,) = [line for line in text.splitlines() if marker in line]
    return line.split()


STAGE = {
    "name": "int8",
    "accuracy": 0.97222,
    "simulated_accuracy": 0.975,
    "raw_bytes": 31_416,
    "gzip_bytes": 9_999,
    "weight_payload_bytes": 22_500,
    "sparsity": 0.5,
    "distinct_values": 16,
    "litert_latency_ms": {"median": 0.0123, "p10": 0.0119, "p90": 0.0131},
    "tflm_arena_bytes": 10_240,
}


@pytest.mark.parametrize("width", [80, 200])
def test_measurement_table_shows_each_figure_in_its_column(width: int) -> None:
    text = rendered(tables.measurement_table([STAGE], title="digits [red]"), width)
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    assert lines[0].strip() == "digits [red]"
    assert lines[1].split() == ["acc.", "sim.", "file", "gzip", "weights", "zeros", "distinct", "LiteRT", "ms", "TFLM"]
    assert lines[2].split() == ["stage", "%", "acc.", "%", "B", "B", "B", "%", "values", "p10-p90", "arena", "B"]
    assert lines[4].split() == [
        "int8", "97.22", "97.50", "31,416", "9,999", "22,500", "50.00", "16", "0.0123", "10,240",
    ]  # fmt: skip
    assert lines[5].split() == ["0.0119-0.0131"]


def test_none_reads_not_available_and_absent_columns_are_left_out() -> None:
    text = rendered(tables.measurement_table([{"name": "a", "raw_bytes": 5, "tflm_arena_bytes": None}]))
    assert cells(text, "stage") == ["stage", "B", "arena", "B"]
    assert cells(text, "not available here") == ["a", "5", "not", "available", "here"]


def test_names_are_not_markup() -> None:
    text = rendered(tables.measurement_table([{"name": "[bold]x[/bold] [link=evil]", "raw_bytes": 1}]))
    assert "[bold]x[/bold] [link=evil]" in text


def test_a_row_without_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected rows with a `name`. Received: \{'raw_bytes': 1\}"):
        tables.measurement_table([{"raw_bytes": 1}])


def file_stats() -> FileStats:
    weight = TensorStats("model/[red]conv", "CONV_2D", (32, 3, 3, 1), "INT8", 288, 288, 0.25, 16, 32, 3.456)
    return FileStats(4_000, 1_500, 288, 0.25, (weight,), {"CONV_2D": 1, "SOFTMAX": 2})


def test_tensor_table_shows_what_the_file_holds() -> None:
    text = rendered(tables.tensor_table(file_stats()))
    row = cells(text, "CONV_2D")
    assert row == [
        "model/[red]conv",
        "CONV_2D",
        "32x3x3x1",
        "INT8",
        "288",
        "288",
        "25.00",
        "16",
        "32",
        "3.46",
    ]
    assert cells(text, "1 weights") == ["1", "weights", "288", "288", "25.00", "<=", "16"]


def test_storage_table_shows_what_each_storage_would_take() -> None:
    stats = file_stats()
    kept = replace(stats.weights[0], bytes=104, storage="lut", alternatives={"raw": 288, "lut": 104, "bitmap": 232})
    other = replace(stats.weights[0], name="other", alternatives={"raw": 288, "huffman": 1_500})
    text = rendered(tables.storage_table(replace(stats, weights=(kept, other))))
    assert cells(text, "conv") == ["model/[red]conv", "lut", "104", "2.89", "288", "104", "232"]
    assert cells(text, "other") == ["other", "raw", "288", "8.00", "288", "1,500"]
    assert cells(rendered(tables.storage_table(stats)), "conv") == ["model/[red]conv", "raw", "288", "8.00"]


@pytest.mark.parametrize("width", [60, 80])
def test_nothing_is_cut_off_on_a_narrow_terminal(width: int) -> None:
    assert "…" not in rendered(tables.tensor_table(file_stats()), width)
    assert "…" not in rendered(tables.storage_table(file_stats()), width)
    assert "…" not in rendered(tables.measurement_table([STAGE, {**STAGE, "tflm_arena_bytes": None}]), width)


def test_file_line() -> None:
    assert tables.file_line(file_stats()) == (
        "4,000 B in the file, 1,500 B gzipped, 288 B of weights. Operators: CONV_2D x1, SOFTMAX x2"
    )
