"""`keras-compress prune_one_shot`: weights of a model set to zero at once."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.cli import main as cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prune")
    keras.utils.set_random_seed(0)
    wide = keras.layers.Dense(32, name="wide", activation="relu")
    keras.Sequential([keras.Input((16,)), wide, keras.layers.Dense(3, name="head")]).save(path / "model.keras")
    rng = np.random.default_rng(0)
    np.savez(path / "data.npz", x=rng.normal(size=(32, 16)).astype("float32"), y=rng.integers(0, 3, 32))
    return path


def run(folder: Path, *arguments: str) -> int:
    files = [f"--model={folder}/model.keras", f"--out={folder}/sparse.keras"]
    return cli.main(["keras-compress", "prune_one_shot", *files, *arguments])


@pytest.mark.parametrize("criterion", ["magnitude", "snip", "sparse_gpt"])
def test_a_criterion_with_what_it_needs(folder: Path, criterion: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--sparsity=0.75", f"--criterion={criterion}", f"--data={folder}/data.npz") == 0
    assert "Pruned at once: wide: 512 -> 128 weights, 75.0% zeros" in capsys.readouterr().out
    made = keras.models.load_model(folder / "sparse.keras")
    assert np.mean(np.array(made.get_layer("wide").weight("kernel")) == 0) == 0.75
    assert isinstance(made.get_layer("wide").transform_list[0], kc.FixedMaskPruner)


def test_patterns_and_scopes(folder: Path) -> None:
    assert run(folder, "--zeros_by=1,4") == 0
    kernel = np.array(keras.models.load_model(folder / "sparse.keras").get_layer("wide").weight("kernel"))
    assert ((kernel.reshape(4, 4, 32) == 0).sum(1) == 1).all()
    assert run(folder, "--block_size=4,1", "--sparsity=0.5", "--scope=erk") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--criterion=snipp"], "did you mean 'SNIP'"),
        (["--criterion=snip"], "Expected `data=(x, y)`, which criterion SNIP needs"),
        (["--zeros_by=2"], "Expected two whole numbers for --zeros_by"),
        (["--sparsity=1.5"], "Expected `sparsity` as a number in [0, 1)"),
    ],
)
def test_what_is_wrong(folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, *arguments) == 1
    assert message in capsys.readouterr().err
