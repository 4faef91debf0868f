"""`keras-compress widen`: a model with more channels."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from keras_compress.cli import main as cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("widen")
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(10, name="hidden", activation="relu")
    keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(3, name="head")]).save(path / "model.keras")
    return path


def run(folder: Path, *arguments: str) -> int:
    return cli.main(
        ["keras-compress", "widen", f"--model={folder}/model.keras", f"--out={folder}/wide.keras", *arguments]
    )


def widths(folder: Path) -> list[int]:
    return [layer.units for layer in keras.models.load_model(folder / "wide.keras").layers]


def test_a_factor(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--factor=1.5") == 0
    assert widths(folder) == [15, 3]
    assert "83 -> 123 parameters; it begins with new weights" in capsys.readouterr().out


def test_a_target_and_the_same_function(folder: Path) -> None:
    assert run(folder, "--macs=3", "--function_preserving", "--round_to=5") == 0
    assert widths(folder) == [30, 3]
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    old, new = (keras.models.load_model(folder / name)(x) for name in ("model.keras", "wide.keras"))
    np.testing.assert_allclose(new, old, atol=1e-5)


def test_what_cannot_be(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--factor=0.5") == 1
    assert "Expected `factor` > 1" in capsys.readouterr().err
    assert run(folder, "--factor=2", "--macs=2") == 1
    assert "Expected either `factor` or `target`" in capsys.readouterr().err
