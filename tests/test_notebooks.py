"""The notebooks run from top to bottom, offline, and show what their text says."""

from __future__ import annotations

import json
import os
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import keras_compress

FOLDER = Path(__file__).parent.parent / "colab"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SOURCES = sorted((FOLDER / "sources").glob("*.py"))
# Pages that may name notebooks.
PAGES = [FOLDER / "README.md", FOLDER.parent / "README.md", *sorted((FOLDER.parent / "docs").glob("*.md"))]
PAGES.append(FOLDER.parent / "CHANGELOG.md")
# What holds of a notebook's results, where it doesn't assert that itself. Given: the notebook, the folder where it ran.
Claims = Callable[[Any, Path], None]
CLAIMS: dict[str, Claims] = {}
needs_checkout = pytest.mark.skipif(not SOURCES, reason="no checkout around these tests")

# Run by IPython before the first cell, where a test is short; see tests_xla.
UNCOMPILED = """
import os
os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")
import tensorflow
from tests_xla import xla
xla.turn(False)
"""


def read(path: Path) -> Any:
    if not path.is_file():
        pytest.skip("no checkout around these tests")
    return nbformat.read(path, as_version=4)


def executed(notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool = True) -> Any:
    """Runs a notebook with this interpreter and the same package, without a way to download anything."""
    if fast:
        monkeypatch.setenv("FAST", "1")
        startup = tmp_path / "ipython" / "profile_default" / "startup" / "uncompiled.py"
        startup.parent.mkdir(parents=True)
        startup.write_text(UNCOMPILED, encoding="utf-8")
    spec = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "display_name": "current", "language": "python"}  # fmt: skip
    folder = tmp_path / "jupyter" / "kernels" / "current"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    places = (Path(keras_compress.__file__).parent.parent, Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    # The kernel's own default draws into the notebook.
    monkeypatch.delenv("MPLBACKEND", raising=False)
    work = tmp_path / "work"
    work.mkdir()
    client = NotebookClient(notebook, kernel_name="current", timeout=300, resources={"metadata": {"path": str(work)}})
    return client.execute()


def text_of(cell: Any) -> str:
    """What a cell printed, without the log."""
    return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")


def printed_by(notebook: Any, tag: str) -> Any:
    """The JSON that the cell with this tag printed."""
    (cell,) = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]
    return json.loads(text_of(cell))


def claims(stem: str) -> Callable[[Claims], Claims]:
    """Registers what holds of a notebook."""

    def register(function: Claims) -> Claims:
        CLAIMS[stem] = function
        return function

    return register


@claims("01_quickstart")
def quickstart(notebook: Any, work: Path) -> None:
    found = printed_by(notebook, "figures")
    floating, after_training, compressed = found["stages"]
    assert [stage["name"] for stage in found["stages"]] == [
        "float32",
        "int8 after training",
        "pruned + clustered + int8",
    ]
    assert found["verified"] is True
    assert floating["accuracy"] >= 0.96
    assert compressed["accuracy"] >= 0.95
    # One of 360 images is 0.28 points: the file may differ from the simulation by two of them.
    assert abs(compressed["accuracy"] - found["simulated_accuracy"]) <= 2 / 360 + 1e-9
    assert floating["weight_payload_bytes"] == 4 * after_training["weight_payload_bytes"] == 4 * 22_480
    assert compressed["weight_payload_bytes"] == 22_480
    assert compressed["sparsity"] > 0.7
    assert compressed["distinct_values"] <= 16
    assert after_training["gzip_bytes"] < 0.4 * floating["gzip_bytes"]
    assert compressed["gzip_bytes"] < 0.5 * after_training["gzip_bytes"]
    assert 3 < floating["raw_bytes"] / compressed["raw_bytes"] < 4.2
    assert (work / "digits_int8.tflite").stat().st_size == compressed["raw_bytes"]

    images = [
        output for each in notebook.cells for output in each.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(images) == 2


@claims("04_quantization")
def quantization(notebook: Any, work: Path) -> None:
    found = printed_by(notebook, "figures")
    assert found["float_accuracy"] >= 0.95
    assert all(stage["verified"] for stage in found["stages"])
    assert all(stage["accuracy"] >= found["float_accuracy"] - 0.02 for stage in found["stages"][:-1])
    assert found["stages"][-1]["accuracy"] >= found["float_accuracy"] - 0.06
    first, second, few, _ = [stage["bytes"] for stage in found["stages"]]
    assert few <= min(first, second)
    nearest, learned = found["output_sqnr_db"]
    assert learned > nearest + 2.0
    bits = printed_by(notebook, "bits")
    assert all(each["verified"] for each in bits.values())
    assert bits["uniform"]["average_bits"] == 4 < bits["mixed"]["average_bits"] <= 4.25
    assert bits["mixed"]["output_sqnr_db"] > bits["uniform"]["output_sqnr_db"]
    assert bits["mixed"]["accuracy"] >= bits["uniform"]["accuracy"] - 0.01


@claims("09_distillation")
def distillation(notebook: Any, work: Path) -> None:
    found = printed_by(notebook, "figures")
    assert found["verified"] is True
    assert found["teacher_accuracy"] > 0.8
    assert min(found["taught_accuracy"], found["unlabelled_accuracy"]) > 0.7
    assert found["four_bit_accuracy"] >= found["taught_accuracy"] - 0.1
    assert found["lessons"][0].startswith("Taught by taught by SoftTargets(temperature=4), alpha 0.7: its loss ")
    assert found["bytes"] < 20_000


@claims("10_low_rank")
def low_rank(notebook: Any, work: Path) -> None:
    found = printed_by(notebook, "figures")
    whole, smaller = found["files"]["whole"], found["files"]["low rank"]
    assert whole["verified"]
    assert smaller["verified"]
    assert smaller["macs"] <= 0.5 * whole["macs"]
    assert smaller["accuracy"] >= whole["accuracy"] - 0.03
    assert smaller["accuracy"] >= found["before_training"]


@claims("11_compact_nets")
def compact_nets(notebook: Any, work: Path) -> None:
    found = printed_by(notebook, "figures")
    files, plain = found["files"], found["files"]["plain"]
    assert all(each["verified"] for each in files.values())
    assert all(each["macs"] <= 0.5 * plain["macs"] for name, each in files.items() if name != "plain")
    assert all(each["accuracy"] > 0.85 for each in files.values())
    assert files["compact"]["accuracy"] >= plain["accuracy"] - 0.03
    assert files["compact"]["accuracy"] >= found["before_training"]


@claims("12_make_it_fit")
def make_it_fit(notebook: Any, work: Path) -> None:
    found = printed_by(notebook, "figures")
    assert any(reason.startswith("flash: ") for reason in found["too_large"])
    assert any(reason.startswith("arena: ") for reason in found["too_large"])
    assert found["met"]
    assert found["fits"]
    assert found["bytes"] <= 16_000
    assert found["test"] > 0.6
    assert found["trials"] in (3, 8)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_its_claims_hold(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = read(path)
    own = any("assert " in cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert own or path.stem in CLAIMS
    ran = executed(notebook, tmp_path, monkeypatch)
    printed = "".join(text_of(cell) for cell in ran.cells if cell.cell_type == "code")
    assert "Not finished" not in printed
    assert "Warning" not in printed
    if path.stem in CLAIMS:
        CLAIMS[path.stem](ran, tmp_path / "work")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_valid_and_hold_no_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.source for cell in code if cell.outputs or cell.execution_count is not None] == []
    # Something is installed only where the import fails.
    installing = [cell.source for cell in code if "%pip" in cell.source]
    assert installing[0] == code[0].source
    assert all(source.index("except ImportError:") < source.index("%pip") for source in installing)
    # All begin alike, with a badge that opens the notebook itself, from where the first cell installs the package.
    assert code[0].source == next(cell for cell in read(NOTEBOOKS[0]).cells if cell.cell_type == "code").source
    (repository,) = re.findall(r'REPOSITORY = "(\S+)"', code[0].source)
    found = re.findall(r"colab\.research\.google\.com/github/(\S+?/\S+?)/blob/main/(\S+)\)", notebook.cells[0].source)
    assert found == [(repository, f"colab/{path.name}")]


@needs_checkout
def test_notebooks_are_those_of_the_sources() -> None:
    made = runpy.run_path(str(FOLDER / "make_notebooks.py"))["notebook_of"]
    texts = {source.stem: made(source.read_text(encoding="utf-8")) for source in SOURCES}
    differ = sorted(
        name
        for name in texts.keys() | {path.stem for path in NOTEBOOKS}
        if not (path := FOLDER / f"{name}.ipynb").is_file() or texts.get(name) != path.read_text(encoding="utf-8")
    )
    assert differ == [], "python colab/make_notebooks.py"


@needs_checkout
def test_pages_name_notebooks_that_are_there() -> None:
    named = {name for page in PAGES for name in re.findall(r"\b\d\d_\w+(?=\.ipynb)", page.read_text(encoding="utf-8"))}
    assert named == {path.stem for path in NOTEBOOKS}
    listed = re.findall(r"\[(\w+)\]\(\1\.ipynb\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert listed == [path.stem for path in NOTEBOOKS]
    # Links of the pages that mkdocs does not check.
    links = [
        (page, link) for page in PAGES[:2] for link in re.findall(r"\]\(([^):]+)\)", page.read_text(encoding="utf-8"))
    ]
    assert links
    assert [link for page, link in links if not (page.parent / link.partition("#")[0]).exists()] == []


CONVERSION = """
import os
os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")
import keras, numpy as np
import keras_compress as kc
from keras_compress.core import progress
progress.DELAY_SECONDS = 0.0
progress._Notebook.interval_seconds = 0.01
x = np.random.default_rng(0).normal(size=(80, 8, 8, 1)).astype("float32")
model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3), keras.layers.Flatten(),
                          keras.layers.Dense(3)])
model.predict(x, verbose=0);
"""


def test_a_conversion_shows_one_line_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = "kc.convert(model, representative_dataset=x)"
    work = [CONVERSION, f"artifact = {convert}", "found = kc.verify(artifact, model, x)"]
    work.append(f"keras.config.disable_interactive_logging()\nsecond = {convert}")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in work])
    _, converted, verified, silent = executed(notebook, tmp_path, monkeypatch).cells
    for cell, what in ((converted, "converting"), (verified, "verifying")):
        (line,) = cell.outputs
        assert line.output_type == "display_data"
        assert re.fullmatch(rf"{what}: [0-9.]+ s", line.data["text/plain"])
    assert silent.outputs == []
