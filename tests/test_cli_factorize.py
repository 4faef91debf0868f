"""`keras-compress factorize`: a trained model in layers of low rank."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from keras_compress.cli import main as cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("factorize")
    keras.utils.set_random_seed(0)
    wide = keras.layers.Dense(32, name="wide", activation="relu")
    keras.Sequential([keras.Input((32,)), wide, keras.layers.Dense(3, name="head")]).save(path / "model.keras")
    np.savez(path / "data.npz", x=np.random.default_rng(0).normal(size=(64, 32)).astype("float32"), y=np.zeros(64))
    return path


def run(folder: Path, *arguments: str) -> int:
    return cli.main(
        ["keras-compress", "factorize", f"--model={folder}/model.keras", f"--out={folder}/low.keras", *arguments]
    )


def test_a_target_with_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--macs=0.6", f"--data={folder}/data.npz") == 0
    assert "Low rank: wide: svd of rank 8 of 32" in capsys.readouterr().out
    made = keras.models.load_model(folder / "low.keras")
    assert [layer.name for layer in made.layers] == ["wide_basis", "wide", "head"]


def test_a_rank(folder: Path) -> None:
    assert run(folder, "--rank=3", "--method=svd") == 0
    assert keras.models.load_model(folder / "low.keras").get_layer("wide_basis").units == 3


def test_what_is_no_number(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--rank=many") == 1
    assert "Expected a number for --rank" in capsys.readouterr().err
