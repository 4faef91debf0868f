"""`--out` that is a file that is read, or has another ending, is refused before any work by each command."""

from __future__ import annotations

from pathlib import Path

import pytest

from keras_compress.cli import main as cli


def test_names_in_a_recipe_never_reach_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "prune\\u001b]0;owned\\u0007"
    text = f'{{"version": 1, "name": "r", "stages": [{{"name": "{hostile}", "method": "quantize_model"}}]}}'
    (tmp_path / "r.json").write_text(text)
    arguments = ["--model=m.keras", "--data=d.npz", f"--recipe={tmp_path}/r.json", f"--out={tmp_path}/out"]
    assert cli.main(["keras-compress", "compress", *arguments]) == 1
    said = capsys.readouterr()
    assert "Expected printable text at `stages[0].name`" in said.err
    assert (said.out + said.err).replace("\n", "").isprintable()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files that are no models: a command that looks into one of them says something else."""
    names = ("m.keras", "m.tflite", "d.npz", "r.json", "net_data.cc")
    for name in names:
        (tmp_path / name).write_text(name)
    (tmp_path / "run").mkdir()
    for name in ("model_compressed.keras", "model_compressed.tflite", "report.json"):
        (tmp_path / "run" / name).write_text(name)
    (tmp_path / "link.tflite").symlink_to(tmp_path / "m.keras")
    (tmp_path / "again").symlink_to(tmp_path / "run")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("convert --model=m.keras --out=m.keras", "Expected --out as a file that ends in .tflite"),
        ("convert --model=m.keras --mode=float32 --out=d.npz", "Expected --out as a file that ends in .tflite"),
        ("convert --model=m.keras --out=m", "Expected --out as a file that ends in .tflite"),
        ("convert --model=m.keras --out=link.tflite", "Expected --out to be another file than --model"),
        ("convert --model=m.keras --data=m.tflite --out=./run/../m.tflite", "another file than --data"),
        ("convert --model=m.keras --out=run", "Expected --out as a file such as model.tflite. Received: the folder"),
        ("expand --model=m.tflite --out=m.tflite", "Expected --out to be another file than --model"),
        ("expand --model=m.tflite --out=m.keras", "Expected --out as a file that ends in .tflite"),
        ("compress --model=run/model_compressed.keras --data=d.npz --out=run", "another file than --model"),
        ("compress --model=run/model_compressed.keras --data=d.npz --out=again", "another file than --model"),
        ("compress --model=m.keras --data=d.npz --recipe=run/report.json --out=run", "another file than --recipe"),
        ("export --model=net_data.cc --out=. --name=net", "another file than model"),
        ("estimate --model=m.tflite --target=ethos_u --save_to=m.tflite", "Expected save_to to be another file"),
        ("estimate --model=m.tflite --target=ethos_u --save_to=m.keras", "ends in .tflite"),
    ],
)
def test_what_is_read_is_never_written(
    folder: Path, arguments: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert cli.main(["keras-compress", *arguments.split()]) == 1
    assert said in capsys.readouterr().err
    left = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}
    assert len(left) == 8
    assert all(path.read_text() == path.name for path in left.values())
