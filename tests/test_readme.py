"""Every command and every snippet of the README is run, as it is written there."""

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

import keras_compress as kc
from keras_compress.cli import main as cli
from keras_compress.demo import datasets, models

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"keras-compress (?:demo|\w+ --)[^`|\n]*", README)))
# Installing and testing is what .ci/run does; see test_packaging.
ELSEWHERE = {"pip install . && keras-compress demo --out=out", "pip install '.[test]' && pytest -n 2 --dist worksteal"}
FASHION = "--dataset=fashion_mnist"
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """For the short commands; the demo of test_demo.py starts Python anew, as a user does."""
    with python_copies(tmp_path_factory.mktemp("printed")) as run:
        yield run


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README's commands read: model.keras, data.npz, model.tflite."""
    folder = tmp_path_factory.mktemp("readme")
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
    return folder


def arguments_of(command: str) -> list[str]:
    """Of Python, as the entry point of a `keras-compress` command line has them."""
    program, *arguments = shlex.split(command)
    assert program == "keras-compress"
    return ["-m", "keras_compress.cli", *arguments]


def check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr[-2000:]
    # No converter noise, no traceback: progress and tables only.
    assert not re.search(r"WARNING|Traceback|I0000|E0000|tensorflow/", done.stdout + done.stderr), done.stderr[-2000:]


def test_readme_names_every_command() -> None:
    named = {command.split()[1] for command in COMMANDS}
    assert named >= {"demo", "compress", "convert", "measure", "inspect", "export", "estimate", "expand"}
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.strip().splitlines()]
    assert all(line in ELSEWHERE or line in COMMANDS for line in lines), lines


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


@pytest.fixture
def dense(inside: Path) -> Iterator[keras.Model]:
    """For snippets that train in stages: a model of two layers, run eagerly, since compiling it takes longest."""
    data = datasets.load("digits")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    made = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(64, "relu"), layers.Dense(10)])
    made.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    made.fit(data.x_train, data.y_train, epochs=3, verbose=0)
    tf.config.run_functions_eagerly(True)
    try:
        yield made
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet(number: int, inside: Path, request: pytest.FixtureRequest) -> None:
    data = datasets.load("digits")
    names: dict[str, Any] = {
        "kc": kc,
        "model": keras.models.load_model(inside / "model.keras"),
        "x": data.x_train[:64],
        "y": data.y_train[:64],
        "x_val": data.x_test[:100],
        "y_val": data.y_test[:100],
    }
    snippet = SNIPPETS[number].replace('"adam", "sparse_categorical_crossentropy"', "'adam', loss")
    if "deep_compression" in snippet or "cluster_weights" in snippet:
        names["model"] = request.getfixturevalue("dense")
    names["loss"] = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with warnings.catch_warnings():
        # So many images are too few steps for the schedule of the example: that is said, as it should be.
        warnings.simplefilter("ignore")
        exec(compile(snippet, f"README snippet {number}", "exec"), names)  # noqa: S102
    if "artifact.save" in snippet:
        assert (inside / "model.tflite").read_bytes() == names["artifact"].content
