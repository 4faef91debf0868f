from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from keras_compress.report import sheet, tables
from keras_compress.tflite.inspection import FileStats, TensorStats


def rendered(table: sheet.Sheet, width: int = 220) -> str:
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


def test_measurement_table_shows_each_figure_in_its_column() -> None:
    text = rendered(tables.measurement_table([STAGE], title="digits [red]"), 80)
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
    assert cells(text, "not") == ["a", "5", "not"]
    assert "available" in text


def test_bytes_stand_beside_the_first_stages() -> None:
    small = {**STAGE, "name": "small", "raw_bytes": 7_854, "gzip_bytes": 20_000}
    lines = [line.split() for line in rendered(tables.measurement_table([STAGE, small])).splitlines()]
    (position,) = [n for n, line in enumerate(lines) if line[:1] == ["small"]]
    assert lines[position][3:5] == ["7,854", "20,000"]
    assert lines[position + 1] == ["4.00x", "0.50x", "1.00x", "0.0119-0.0131", "1.00x"]


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
    assert row == ["model/[red]conv", "CONV_2D", "32x3x3x1", "INT8", "288", "25.00", "16", "288", "32", "3.46"]
    assert cells(text, "1 weights") == ["1", "weights", "288", "25.00", "<=16", "288"]


def test_storage_table_shows_what_each_storage_would_take() -> None:
    stats = file_stats()
    kept = replace(stats.weights[0], bytes=104, storage="lut", alternatives={"raw": 288, "lut": 104, "bitmap": 232})
    other = replace(stats.weights[0], name="other", alternatives={"raw": 288, "huffman": 1_500})
    text = rendered(tables.storage_table(replace(stats, weights=(kept, other))))
    assert cells(text, "conv") == ["model/[red]conv", "lut", "104", "2.89", "288", "104", "232"]
    assert cells(text, "other") == ["other", "raw", "288", "8.00", "288", "1,500"]
    assert cells(rendered(tables.storage_table(stats)), "conv") == ["model/[red]conv", "raw", "288", "8.00"]


@pytest.mark.parametrize("width", [40, 60, 80])
def test_no_word_is_cut_on_a_narrow_terminal(width: int) -> None:
    stage = {**STAGE, "arithmetic": "float32", "tflm_arena_bytes": None}
    steps = [{"operator": "DEPTHWISE_CONV_2D", "output": "net/stem_relu/Relu;net/stem/conv", "bytes": 25_088}]
    for table, words in (
        (tables.tensor_table(file_stats()), ["model/[red]conv", "CONV_2D", "32x3x3x1", "distinct", "entropy"]),
        (tables.storage_table(file_stats()), ["model/[red]conv", "raw", "weight"]),
        (tables.measurement_table([STAGE, stage]), ["stage", "distinct", "float32", "available", "0.0119-0.0131"]),
        (tables.memory_table(steps), ["DEPTHWISE_CONV_2D", "stem_", "25,088", "100.0"]),
    ):
        text = rendered(table, width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        assert [word for word in words if word not in text and width == 80] == []
        # Long names are broken at their separators; figures and headings are whole.
        assert [word for word in words if word not in text.replace("\n", "") and "/" not in word] == []


def test_file_line() -> None:
    assert tables.file_line(file_stats()) == (
        "4,000 B in the file, 1,500 B gzipped, 288 B of weights. Operators: CONV_2D x1, SOFTMAX x2"
    )


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected columns of one length"):
        sheet.Sheet([sheet.Column("a", ["1"]), sheet.Column("b", [])])
