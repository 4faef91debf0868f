"""`keras-compress prune_iteratively`: rounds of pruning and training within a budget."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from keras_compress.cli import main as cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prune")
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(120, 8)).astype("float32")
    weights = np.array([3.0, -2.0, 1.5, 0.9, -0.05, 0.04, 0.02, -0.01], np.float32)[:, None]
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1, name="line")])
    model.layers[0].set_weights([weights, np.zeros(1, np.float32)])
    model.save(path / "model.keras")
    np.savez(path / "data.npz", x_train=x[:80], y_train=x[:80] @ weights, x_test=x[80:], y_test=x[80:] @ weights)
    return path


def run(folder: Path, *arguments: str) -> int:
    read = [f"--model={folder}/model.keras", f"--data={folder}/data.npz", f"--out={folder}/pruned.keras"]
    return cli.main(["keras-compress", "prune_iteratively", *read, "--batch_size=40", "--epochs=1", *arguments])


def test_the_last_round_within_the_budget_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--sparsities=0.5,0.75", "--max_drop=0.2", f"--folder={folder}/rounds", f"--plot={folder}/rounds.png"]
    assert run(folder, *arguments) == 0
    head, *rounds, last, said = capsys.readouterr().out.strip().splitlines()
    assert head.split("  ")[-1] == "within the budget"
    # A regression: the lower, the better. Two batches of 36 samples: a tenth is held out.
    assert [line.split()[1] for line in rounds] == ["0.0%", "50.0%", "75.0%"]
    assert [line.split()[-1] for line in rounds] == ["yes", "yes", "no"]
    assert rounds[1].split()[3] == "2"
    assert last.startswith("mean absolute error on 40 samples: 0.0")
    assert "pruned.keras: 50.0% zeros; to be clustered" in said
    assert (folder / "rounds.png").read_bytes()[:4] == b"\x89PNG"
    kernel = np.asarray(keras.models.load_model(folder / "pruned.keras").get_layer("line").weight("kernel"))
    assert (kernel != 0).ravel().tolist() == [True] * 4 + [False] * 4
    # The same again reads what is there.
    assert run(folder, *arguments) == 0
    assert capsys.readouterr().out.splitlines()[1:4] == rounds


def test_a_budget_that_no_round_meets(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--sparsity=0.8", "--rounds=1", "--max_drop=0.01") == 1
    assert "No round is within the budget" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Expected --sparsity or --sparsities"),
        (("--sparsities=half",), "Expected numbers for --sparsities"),
        (("--sparsity=1.5",), "Expected `sparsity` as a number in [0, 1)"),
        (("--sparsity=0.5", "--sparsities=0.5"), "Expected `sparsities` or `sparsity`, one of them"),
    ],
)
def test_wrong_flags(
    folder: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, *arguments) == 1
    assert message in capsys.readouterr().err
