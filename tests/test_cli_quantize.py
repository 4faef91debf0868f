"""`keras-compress quantize`: a trained model becomes a quantized one without training."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from keras_compress.cli import main as cli
from keras_compress.quantizers.activation import QuantizeActivation


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 1), name="image")
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, name="conv")(image)))
    model = keras.Model(image, layers.Dense(3, name="classes")(layers.Flatten()(x)), name="net")
    x = np.random.default_rng(0).normal(size=(64, 6, 6, 1)).astype(np.float32)
    model(x, training=True)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=x, y=np.zeros(64, np.int64))
    return tmp_path


def run(folder: Path, *arguments: str) -> int:
    return cli.main(
        ["keras-compress", "quantize", f"--model={folder}/model.keras", f"--out={folder}/q.keras", *arguments]
    )


def test_without_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--scales=tensor", "--input_range=-4,4", "--weights=int4") == 0
    said = capsys.readouterr().out
    assert "Signal to noise of net" in said
    assert "Post-training: Equalized: 4 channels" in said
    made = keras.models.load_model(folder / "q.keras")
    points = [layer for layer in made.layers if isinstance(layer, QuantizeActivation)]
    assert all(point.quantizer.trained() for point in points)
    assert [float(end) for end in points[0].quantizer.range()] == [-4.0, 4.0]
    weights = np.asarray(made.get_layer("conv").weight("kernel"))
    assert len(np.unique(weights)) <= 15
    assert cli.main(["keras-compress", "convert", f"--model={folder}/q.keras", f"--out={folder}/q.tflite"]) == 0


@pytest.mark.parametrize("level", ["2", "3"])
def test_with_data(folder: Path, capsys: pytest.CaptureFixture[str], level: str) -> None:
    assert run(folder, f"--data={folder}/data.npz", f"--level={level}") == 0
    said = capsys.readouterr().out
    assert "Post-training: Ranges from data: 3 points" in said
    assert (" that were held out." in said) == (level == "3")


def test_bits_under_a_budget(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, f"--data={folder}/data.npz", "--budget=average_bits=4.5") == 0
    said = capsys.readouterr().out
    assert "at most 4.5" in said
    assert "convert --target=litert --weights_storage=int4" in said
    made = keras.models.load_model(folder / "q.keras")
    # Each output channel has a scale of its own.
    assert len(np.unique(np.asarray(made.get_layer("classes").weight("kernel"))[:, 0])) <= 15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget=average_bits=4"], "Expected --data beside --budget"),
        (["--data=data.npz", "--budget=average_bits"], "Expected costs and limits for --budget"),
        (["--level=2"], "Expected `data` for level 2"),
        (["--input_range=a,b"], "Expected two numbers for --input_range"),
        (["--weights=int9"], "bits=9"),
        (["--out=q.tflite"], "ends in .keras"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, *arguments) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
