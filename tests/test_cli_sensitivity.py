"""`keras-compress sensitivity`: a scan as a table, a file and a plot."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from keras_compress.cli import main as cli
from keras_compress.pipelines.rank_sensitivity import RankSensitivity


def run(folder: Path, *arguments: str) -> int:
    return cli.main(
        ["keras-compress", "sensitivity", f"--model={folder}/model.keras", f"--data={folder}/data.npz", *arguments]
    )


def test_ranks_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keras.utils.set_random_seed(0)
    wide = keras.layers.Dense(32, name="wide", activation="relu")
    keras.Sequential([keras.Input((32,)), wide, keras.layers.Dense(3, name="head")]).save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).normal(size=(64, 32)).astype("float32"))
    out, plot = tmp_path / "found" / "ranks.json", tmp_path / "ranks.png"
    assert run(tmp_path, "--of=ranks", "--ratios=0.5,0.75", f"--out={out}", f"--plot={plot}") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "wide" in text
    assert "at full rank" in text
    found = RankSensitivity.load(out)
    assert found.tried == (0.5, 0.75)
    assert found.groups[0].values[0] > found.groups[0].values[1] > 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert run(tmp_path, "--of=ranks", "--ratios=half") == 1
    assert "Expected numbers for --ratios" in capsys.readouterr().err
    # Weights are judged by labels, which are not there.
    assert run(tmp_path, "--of=weights") == 1
    assert "Expected x_test, y_test" in capsys.readouterr().err
