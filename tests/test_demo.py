"""The README's demo, in full and in a process of its own as a user runs it: files, report, table, a clean stop."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import pytest
from tests_shared import made_once

import keras_compress
from keras_compress.cli import main as cli
from keras_compress.cli.flags import COMMANDS
from keras_compress.demo import demo
from keras_compress.runtime.tflm import TFLM
from keras_compress.tflite.inspection import inspect_tflite

README = Path(__file__).parents[1] / "README.md"
COMMAND = "keras-compress demo --out=out"
STAGES = ["float", "int8", "pruned", "clustered", "pcqat int8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command leaves."""
    return made_once(tmp_path_factory, "demo", demo_in) / "out"


def demo_in(folder: Path) -> None:
    """Within four minutes, and without a word of the converter."""
    package = str(Path(keras_compress.__file__).parents[1])
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "keras_compress.cli", *COMMAND.split()[1:]],
        cwd=folder, env={**os.environ, "PYTHONPATH": package},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert not re.search(r"WARNING|Traceback|I0000|E0000|tensorflow/", done.stdout + done.stderr), done.stderr[-2000:]
    assert time.monotonic() - began < 240


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_what_the_readme_promises(report: dict[str, Any]) -> None:
    assert f"&& {COMMAND}\n" in README.read_text(encoding="utf-8")
    stages = {stage["name"]: stage for stage in report["stages"]}
    first, last = stages["float"], stages["pcqat int8"]
    assert first["accuracy"] >= 0.97
    assert last["accuracy"] >= first["accuracy"] - 0.015


def test_files(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "model_clustered.keras", "model_clustered.tflite", "model_compressed.keras", "model_float.keras",
        "model_float.tflite", "model_int8.tflite", "model_plain_int8.tflite", "model_pruned.keras",
        "model_pruned.tflite", "report.html", "report.json", "report_page.json",
    ]  # fmt: skip
    reloaded = keras.models.load_model(folder / "model_compressed.keras")
    assert reloaded.name == "digits_cnn"


def test_stages_have_the_promised_keys_and_types(report: dict[str, Any]) -> None:
    assert [stage["name"] for stage in report["stages"]] == STAGES
    for stage in report["stages"]:
        assert set(stage) >= {
            "name", "accuracy", "simulated_accuracy", "raw_bytes", "gzip_bytes", "weight_payload_bytes", "sparsity",
            "litert_latency_ms", "tflm_arena_bytes", "distinct_values",
        }  # fmt: skip
        assert 0 < stage["accuracy"] <= 1
        assert abs(stage["accuracy"] - stage["simulated_accuracy"]) <= 0.01
        assert all(isinstance(stage[key], int) for key in ("raw_bytes", "gzip_bytes", "weight_payload_bytes"))
        assert stage["weight_payload_bytes"] < stage["raw_bytes"]
        latency = stage["litert_latency_ms"]
        assert set(latency) == {"median", "p10", "p90"}
        assert 0 < latency["p10"] <= latency["median"] <= latency["p90"]
    assert [stage["weight_payload_bytes"] for stage in report["stages"]] == [89920, 22480, 89920, 89920, 22480]


def test_tflm_column(report: dict[str, Any]) -> None:
    arenas = [stage["tflm_arena_bytes"] for stage in report["stages"]]
    if TFLM().available() is not None:
        assert arenas == [None] * len(STAGES)
        return
    assert all(isinstance(arena, int) and 1000 < arena < 100_000 for arena in arenas)
    assert arenas[4] < arenas[0]


def test_figures_are_those_of_the_files(folder: Path, report: dict[str, Any]) -> None:
    rows = {stage["name"]: stage for stage in report["stages"]}
    for name, file in (("float", "model_float.tflite"), ("pcqat int8", "model_int8.tflite")):
        stats = inspect_tflite(folder / file)
        assert rows[name]["raw_bytes"] == stats.raw_bytes
        assert rows[name]["gzip_bytes"] == stats.gzip_bytes
        assert rows[name]["sparsity"] == stats.sparsity
    final = rows["pcqat int8"]
    assert final["sparsity"] == pytest.approx(0.8, abs=0.005)  # rounding makes a few more zeros
    assert final["distinct_values"] <= 16
    assert final["gzip_bytes"] < rows["float"]["gzip_bytes"] / 8


def test_report_tells_how_it_came_about(report: dict[str, Any]) -> None:
    assert report["seed"] == 0
    assert report["epochs"] == [30, 25, 10, 10]
    assert report["recipe"] == "pcqat"
    assert set(report["machine"]) == {"cpu", "architecture", "cores", "system"}
    assert report["versions"]["keras"] == keras.__version__
    assert report["verification"]["ok"] is True
    assert set(report["verification"]["kernels"]) >= {"xnnpack", "reference"}
    assert any("runs in turns" in note for note in report["notes"])


def test_report_command_prints_the_table_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["keras-compress", "report", f"--out={folder}"]) == 0
    text = capsys.readouterr().out
    for name in STAGES:
        assert f" {name}" in text
    assert "digits_cnn on digits, 360 test images" in text


def test_report_command_writes_the_page_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (folder / "report.html").read_bytes()
    assert b"keras-compress demo --" in page
    (folder / "report.html").unlink()
    assert cli.main(["keras-compress", "report", f"--out={folder}/report.html"]) == 0
    assert (folder / "report.html").read_bytes() == page
    assert f"{folder}/report.html shows it layer by layer." in capsys.readouterr().out


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"stages": 3}', '{"stages": [{}]}', '{"stages": [{"name": "a", "raw_bytes": "x"}]}']
)
def test_a_damaged_report(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.json").write_text(content, encoding="utf-8")
    assert cli.main(["keras-compress", "report", f"--out={tmp_path}"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: Expected a report")
    assert error.count("\n") == 1


def test_interrupted_it_leaves_nothing_half_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "fit", lambda *args, **kwargs: None)
    monkeypatch.setattr(demo, "convert", interrupt)
    assert cli.main(["keras-compress", "demo", f"--out={tmp_path}"]) == 130
    assert "Interrupted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_tflm_its_column_says_so(
    tmp_path: Path, report: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    without = {**report, "notes": [], "stages": [{**stage, "tflm_arena_bytes": None} for stage in report["stages"]]}
    (tmp_path / "report.json").write_text(json.dumps(without), encoding="utf-8")
    assert cli.main(["keras-compress", "report", f"--out={tmp_path}"]) == 0
    words = capsys.readouterr().out.split()
    assert [words.count(word) for word in ("not", "available", "here")] == [len(STAGES)] * 3


def test_defaults() -> None:
    values = COMMANDS["demo"].flags()
    values(["demo", "--dataset=fashion_mnist"])
    settings = demo.settings_of(values)
    assert (settings.model, settings.epochs, settings.batch_size) == ("lenet5", (3, 3, 2, 1), 128)
    assert [stage.epochs for stage in settings.recipe.stages] == [3, 2, 1]
