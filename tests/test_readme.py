"""Every command and every snippet of the README and of the pages named here is run, as it is written there."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import struct
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tests_processes import Run, python_copies
from tests_shared import made_once

import keras_compress as kc
from keras_compress.cli import flags as cli_flags
from keras_compress.cli import main as cli
from keras_compress.cli import recipes as cli_recipes
from keras_compress.demo import datasets, models

FOLDER = Path(__file__).parents[1]
README = (FOLDER / "README.md").read_text(encoding="utf-8")
# Commands of these are run, and snippets.
PAGES = {
    name: (FOLDER / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for name in (
        *("index", "recipes", "command_line", "troubleshooting", "pruning", "clustering", "quantization"),
        *("binary_ternary", "models", "converting", "growing", "vector_quantization"),
    )
}
# Of these one snippet, which begins so.
PARTS = {"channels": "graph = kc.channel_graph", "compressed": "found = kc.deep_compression"}
TEXTS = [README, *PAGES.values()]
# Installing and testing is what .ci/run does; see test_packaging.
COMMANDS = sorted(
    {
        found.strip()
        for text in TEXTS
        for found in re.findall(r"keras-compress (?:demo|(?!from_tfmot)[a-z_]+ --)[^`|\n)>]*", text)
    }
)
ELSEWHERE = {"pip install . && keras-compress demo --out=out", "pip install '.[test]' && pytest -n 2 --dist worksteal"}
FASHION = "--dataset=fashion_mnist"
SHELL = re.compile(r"```bash\n(.*?)```", re.DOTALL)
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
SNIPPETS = [(page, snippet) for page, text in (("README", README), *PAGES.items()) for snippet in PYTHON.findall(text)]
for _page, _begin in PARTS.items():
    _found = PYTHON.findall((FOLDER / "docs" / f"{_page}.md").read_text(encoding="utf-8"))
    SNIPPETS += [(_page, snippet) for snippet in _found if snippet.startswith(_begin)]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """For the short commands; the demo of test_demo.py starts Python anew, as a user does."""
    with python_copies(tmp_path_factory.mktemp("printed")) as run:
        yield run


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README's commands read: model.keras, data.npz, model.tflite."""
    return made_once(tmp_path_factory, "readme", fill_workplace)


def fill_workplace(folder: Path) -> None:
    data = datasets.load("digits")
    keras.utils.set_random_seed(0)
    model = models.digits_cnn()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(data.x_train, data.y_train, epochs=2, verbose=0)
    model.save(folder / "model.keras")
    few = slice(0, 200)
    arrays = {"x_train": data.x_train[few], "y_train": data.y_train[few]}
    np.savez(folder / "data.npz", **arrays, x_test=data.x_test, y_test=data.y_test)
    artifact = kc.convert(model, representative_dataset=data.x_train[few])
    artifact.save(folder / "model.tflite")
    kc.convert(model, mode="float32").save(folder / "model_float.tflite")
    (folder / "folder").mkdir()
    artifact.save(folder / "folder" / "model_compressed.tflite")
    (recipe,) = re.findall(r"```json\n(.*?)```", PAGES["recipes"], re.DOTALL)
    (folder / "mine.json").write_text(recipe, encoding="utf-8")


def arguments_of(command: str) -> list[str]:
    """Of Python, as the entry point of a `keras-compress` command line has them."""
    program, *arguments = shlex.split(command)
    assert program == "keras-compress"
    return ["-m", "keras_compress.cli", *arguments]


def check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr[-2000:]
    # No converter noise, no traceback: progress and tables only.
    assert not re.search(r"WARNING|Traceback|I0000|E0000|tensorflow/", done.stdout + done.stderr), done.stderr[-2000:]


def test_the_pages_name_every_command() -> None:
    assert {command.split()[1] for command in COMMANDS} == {*cli_flags.COMMANDS} - {"report", "from_tfmot"}
    lines = [line for text in TEXTS for block in SHELL.findall(text) for line in block.strip().splitlines()]
    assert [line for line in lines if line not in ELSEWHERE and line not in COMMANDS] == []


def test_goals_are_those_of_the_recipes() -> None:
    known = {row["name"]: row for row in cli_recipes.listed()}
    table = re.findall(r"^\| (.+) \| `(\w+)` \| (.+) \|$", README.partition("## Your own model")[0], re.MULTILINE)
    assert len(table) == 6
    for goal, name, gives in table:
        assert (known[name]["goal"], known[name]["gives"]) == (goal, gives)
    assert f"lists all {len(known)}" in README
    assert all(row["goal"] and row["gives"] and row["description"] for row in known.values())


@pytest.mark.parametrize("command", [c for c in COMMANDS if FASHION not in c and c.split()[1] != "demo"])
def test_command(command: str, workplace: Path, python: Run) -> None:
    check(python(workplace, *arguments_of(command)))


@pytest.fixture
def fewer_images(tmp_path: Path, fashion_mnist: datasets.Dataset) -> Path:
    """A folder with a tenth of Fashion-MNIST's images."""
    parts = {"train": (6_000, fashion_mnist.x_train, fashion_mnist.y_train)}
    parts["t10k"] = (1_000, fashion_mnist.x_test, fashion_mnist.y_test)
    for part, (count, images, labels) in parts.items():
        pixels = np.round(images[:count, ..., 0] * 255).astype(np.uint8)
        for name, values in (("images-idx3", pixels), ("labels-idx1", labels[:count].astype(np.uint8))):
            header = struct.pack(f">2x2B{values.ndim}I", 8, values.ndim, *values.shape)
            (tmp_path / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(header + values.tobytes(), 1))
    return tmp_path


@pytest.fixture
def inside(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workplace)
    return workplace


def test_the_demo_on_real_images(inside: Path, fewer_images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one epoch a stage and fewer images, to fit a test; the README's command trains longer."""
    monkeypatch.setenv(datasets.DATA_VARIABLE, str(fewer_images))
    command = next(c for c in COMMANDS if FASHION in c)
    assert cli.main([*shlex.split(command), "--epochs=1"]) == 0
    stages = json.loads((inside / "out_fashion" / "report.json").read_text())["stages"]
    assert stages[-1]["accuracy"] > 0.7


@pytest.fixture(scope="module")
def dense_trained() -> keras.Model:
    """For all but the README: a model of few layers."""
    data = datasets.load("digits")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    made = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU()]
        + [layers.Flatten(), layers.Dense(32, "relu"), layers.Dense(10)]
    )
    made.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    made.fit(data.x_train, data.y_train, epochs=3, verbose=0)
    return made


@pytest.fixture
def dense(dense_trained: keras.Model) -> Iterator[keras.Model]:
    """Run eagerly: compiling takes longest."""
    tf.config.run_functions_eagerly(True)
    try:
        yield dense_trained
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize(("page", "snippet"), SNIPPETS, ids=[f"{page}-{n}" for n, (page, _) in enumerate(SNIPPETS)])
def test_snippet(page: str, snippet: str, inside: Path, dense: keras.Model) -> None:
    data = datasets.load("digits")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def train(model: keras.Model, epochs: int) -> None:
        model.compile("adam", loss)
        model.fit(data.x_train[:32], data.y_train[:32], epochs=1, verbose=0)

    names: dict[str, Any] = {
        "kc": kc,
        "keras": keras,
        "model": keras.models.load_model(inside / "model.keras") if page == "README" else dense,
        "x": data.x_train[:100],
        "y": data.y_train[:100],
        "x_val": data.x_test[:100],
        "y_val": data.y_test[:100],
        "loss": loss,
        "train": train,
    }
    snippet = snippet.replace('"adam", "sparse_categorical_crossentropy"', "'adam', loss")
    with warnings.catch_warnings():
        # So many images are too few steps for the schedule of the example: that is said, as it should be.
        warnings.simplefilter("ignore")
        exec(compile(snippet, f"snippet of {page}", "exec"), names)  # noqa: S102
    for name in re.findall(r"artifact\.save\(\"(.*?)\"\)", snippet):
        assert (inside / name).read_bytes() == names["artifact"].content
