"""The models in `tflite_models/` are what their card says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from keras_compress.demo import datasets
from keras_compress.runtime.target import target
from keras_compress.tflite.inspection import inspect_tflite

FOLDER = Path(__file__).parent.parent / "tflite_models"
NAMES = ("digits_float", "digits_int8")
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no checkout around these tests")


@pytest.fixture(scope="module")
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_tflite_models", FOLDER / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def card() -> str:
    return (FOLDER / "README.md").read_text(encoding="utf-8")


def content(name: str) -> bytes:
    return (FOLDER / f"{name}.tflite").read_bytes()


def figures_of_card() -> dict[str, dict[str, float]]:
    """File -> row -> number, from the table of the card."""
    rows = [line.strip("| ").split("|") for line in card().splitlines() if line.startswith("| ")]
    header, *body = [[cell.strip() for cell in row] for row in rows]
    names = [cell.strip("`").removesuffix(".tflite") for cell in header if ".tflite" in cell]
    return {
        name: {row[0]: float(row[column].replace(",", "").rstrip("%B ")) for row in body}
        for column, name in enumerate(names, 1)
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_the_file_and_the_runtimes_show(
    name: str, make: ModuleType, digits: datasets.Dataset
) -> None:
    said = figures_of_card()[name]
    found = make.figures(content(name), digits)
    # Kernels of another processor may round an image the other way.
    assert said["accuracy on LiteRT"] == pytest.approx(100 * found["litert_accuracy"], abs=0.29)
    assert said["file"] == found["raw_bytes"]
    # zlib differs between Python builds.
    assert said["file, `gzip -9`"] == pytest.approx(found["gzip_bytes"], rel=0.02)
    assert said["weights in the file"] == found["weight_payload_bytes"]
    assert said["zeros among the weights"] == round(100 * found["sparsity"], 2)
    assert said["most distinct values in one weight"] == found["distinct_values"]
    if found["tflm_arena_bytes"] is None:
        pytest.skip("TFLite-Micro is not available here: its two figures were not compared")
    assert said["accuracy on TFLite-Micro"] == round(100 * found["tflm_accuracy"], 2)
    assert said["TFLite-Micro arena"] == found["tflm_arena_bytes"]


def test_the_int8_model_is_worth_it() -> None:
    floating, compressed = (figures_of_card()[name] for name in NAMES)
    assert floating["accuracy on LiteRT"] >= 98
    assert compressed["accuracy on LiteRT"] >= floating["accuracy on LiteRT"] - 1
    assert compressed["file, `gzip -9`"] < floating["file, `gzip -9`"] / 10
    assert compressed["most distinct values in one weight"] <= 16


@pytest.mark.parametrize(("name", "dtype"), [("digits_float", "float32"), ("digits_int8", "int8")])
def test_inputs_and_outputs_are_those_of_the_card(name: str, dtype: str) -> None:
    signature = target("litert").describe(content(name), name)
    (image,), (logits,) = signature.inputs, signature.outputs
    assert (image.signature_name, image.shape, image.dtype) == ("image", (1, 8, 8, 1), dtype)
    assert (logits.signature_name, logits.shape, logits.dtype) == ("logits", (1, 10), dtype)
    assert len(image.scales) == len(logits.scales) == (1 if dtype == "int8" else 0)


def test_the_int8_file_holds_no_float_operator_or_weight() -> None:
    stats = inspect_tflite(content("digits_int8"))
    assert {weight.dtype for weight in stats.weights} == {"INT8"}
    assert not {"QUANTIZE", "DEQUANTIZE"} & set(stats.operators)


def test_the_card_is_written_by_the_command(make: ModuleType) -> None:
    found: dict[str, dict[str, Any]] = {
        "a": {"litert_accuracy": 0.5, "raw_bytes": 1234, "tflm_arena_bytes": None},
        "b": {"litert_accuracy": 1.0, "raw_bytes": 1, "tflm_arena_bytes": 7},
    }
    text = make.with_figures(f"head\n{make.BEGIN}\nold\n{make.END}\ntail\n", found)
    assert text.startswith(f"head\n{make.BEGIN}\n| | `a.tflite` | `b.tflite` |\n|---|---:|---:|\n")
    assert "| accuracy on LiteRT | 50.00 % | 100.00 % |" in text
    assert "| file | 1,234 B | 1 B |" in text
    assert "| TFLite-Micro arena | not measured | 7 B |" in text
    assert "old" not in text
    assert text.endswith(f"{make.END}\ntail\n")
    assert make.with_figures(card(), {}).count(make.BEGIN) == 1
