"""`keras-compress compact`: a trained model's convolutions in compact forms."""

from __future__ import annotations

from pathlib import Path

import keras
import pytest

from keras_compress.cli import main as cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compact")
    keras.utils.set_random_seed(0)
    conv = keras.layers.Conv2D(16, 3, padding="same", name="wide", activation="relu")
    head = keras.layers.Dense(3, name="head")
    layers = [keras.Input((6, 6, 8)), conv, keras.layers.GlobalAveragePooling2D(), head]
    keras.Sequential(layers).save(path / "model.keras")
    return path


def run(folder: Path, *arguments: str) -> int:
    return cli.main(
        ["keras-compress", "compact", f"--model={folder}/model.keras", f"--out={folder}/out.keras", *arguments]
    )


def test_a_target(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--macs=0.2", "--method=separable") == 0
    # 1 of 9 kernels for each of 8 channels: 36 * 8 * (9 + 16) in place of 36 * 8 * 144.
    assert "Compact: wide: separable, 1 spatial kernels a channel, " in (told := capsys.readouterr().out)
    assert "41,472 -> 7,200 MACs" in told
    made = keras.models.load_model(folder / "out.keras")
    assert [layer.name for layer in made.layers if layer.weights] == ["wide_depthwise", "wide", "head"]


def test_a_rank(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--method=grouped", "--rank=4") == 0
    assert keras.models.load_model(folder / "out.keras").get_layer("wide_groups").groups == 4
    assert run(folder, "--rank=many") == 1
    assert "Expected a number for --rank" in capsys.readouterr().err
