"""The command line for files whose weights are stored compressed: convert, measure, inspect, expand, compress."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.cli import main as cli
from keras_compress.demo import datasets
from keras_compress.recipes.recipe import Recipe
from keras_compress.runtime.target import target


def schedule(sparsity: float) -> dict[str, Any]:
    config = {"target_sparsity": sparsity, "begin_step": 0.0, "end_step": 0.5, "frequency": 1}
    return {"class_name": "ConstantSparsity", "config": config}


PRUNE = {
    "name": "prune",
    "method": "prune_low_magnitude",
    "config": {"pruning_schedule": schedule(0.85)},
    "rules": [{"layers": "last", "pruning_schedule": schedule(0.3)}],
    "epochs": 2,
}
QUANTIZE = {"name": "quantize", "method": "quantize_model", "epochs": 1}


def run(*arguments: str) -> int:
    return cli.main(["keras-compress", *arguments])


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a refused input."""
    capsys.readouterr()
    assert run(*arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: ")
    return line


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, digits: datasets.Dataset) -> Path:
    """A folder with a trained sparse model, data, recipes, and the model's int8 file with encoded weights."""
    folder = tmp_path_factory.mktemp("compressed")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Flatten(name="flatten")(inputs)
    x = keras.layers.Dense(96, activation="relu", name="hidden")(x)
    model = keras.Model(inputs, keras.layers.Dense(10, name="classes")(x), name="net")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(digits.x_train, digits.y_train, epochs=4, verbose=0)
    kernel = model.get_layer("hidden").kernel
    kernel.assign(np.where(np.abs(kernel) < np.quantile(np.abs(kernel), 0.8), 0, kernel))
    model.save(folder / "model.keras")
    for name, stages in (("quick", [PRUNE, QUANTIZE]), ("float", [PRUNE])):
        recipe = {"version": 1, "name": name, "stages": stages}
        (folder / f"{name}.json").write_text(json.dumps(recipe), encoding="utf-8")
    np.savez(
        folder / "data.npz", x_train=digits.x_train, y_train=digits.y_train, x_test=digits.x_test, y_test=digits.y_test
    )
    assert run("convert", *converted(folder), f"--out={folder}/encoded.tflite") == 0
    return folder


def converted(folder: Path) -> list[str]:
    return [f"--model={folder}/model.keras", f"--data={folder}/data.npz", "--target=tflm", "--weights_storage=auto"]


def test_convert_keeps_to_an_arena(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (files / "encoded.tflite").read_bytes()
    limit = target("tflm").memory(whole)["arena_minimum_bytes"] - 1_000
    assert run("convert", *converted(files), f"--out={tmp_path}/small.tflite", f"--max_arena_bytes={limit}") == 0
    small = (tmp_path / "small.tflite").read_bytes()
    assert target("tflm").memory(small)["arena_minimum_bytes"] <= limit
    assert "hidden" in capsys.readouterr().out
    line = error_of(capsys, "convert", *converted(files), f"--out={tmp_path}/no.tflite", "--max_arena_bytes=500")
    assert "Expected max_arena_bytes >= " in line
    assert "bytes too few" in line
    assert not (tmp_path / "no.tflite").exists()


def test_litert_refuses_encoded_weights_and_names_the_cure(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, "measure", f"--model={files}/encoded.tflite")
    assert "Expected a file that LiteRT can run. Received: " in line
    assert "encoded.tflite, whose weights are encoded for TFLite-Micro" in line
    assert "`keras-compress expand`, gives the plain file" in line


def test_verify_compares_the_encoded_file_with_the_plain_one(
    files: Path, digits: datasets.Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", *converted(files)) == 0
    text = capsys.readouterr().out
    assert "Verified on tflm" in text
    samples = len(digits.x_test)
    assert f"The compressed file gave the plain one's outputs, bit for bit, on {samples} samples." in text


def test_measure_with_alternate_memory(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["measure", f"--model={files}/encoded.tflite", f"--data={files}/data.npz"]
    assert run(*common, "--target=tflm", "--alt_decompression_memory_bytes=8192") == 0
    text = capsys.readouterr().out
    beside = target("tflm", alt_decompression_memory_bytes=8192).memory((files / "encoded.tflite").read_bytes())
    assert f"arena_bytes {beside['arena_bytes']:,}, " in text
    # 64 x 96 weights, decoded one layer at a time.
    assert "alt_decompression_bytes 6,144" in text
    line = error_of(capsys, *common, "--target=tflm", "--alt_decompression_memory_bytes=100")
    assert "Expected alt_decompression_memory_bytes >= 6144" in line
    assert "only TFLite-Micro decodes weights" in error_of(capsys, *common, "--alt_decompression_memory_bytes=8192")


def test_inspect_shows_how_weights_are_stored(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", f"--model={files}/encoded.tflite") == 0
    text = capsys.readouterr().out
    (hidden,) = (w for w in kc.inspect_tflite(files / "encoded.tflite", alternatives=True).weights if w.op[:2] == "FU"
                 and w.shape == (96, 64))  # fmt: skip
    row = next(line.split() for line in text.splitlines() if f"{hidden.bytes:,}" in line and hidden.storage in line)
    assert hidden.storage != "raw"
    assert row[-len(hidden.alternatives) :] == [f"{size:,}" for size in hidden.alternatives.values()]


def test_expand_writes_what_litert_runs(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, again = tmp_path / "new" / "plain.tflite", tmp_path / "again.tflite"
    assert run("expand", f"--model={files}/encoded.tflite", f"--out={plain}") == 0
    content = (files / "encoded.tflite").read_bytes()
    assert f"plain.tflite: {plain.stat().st_size:,} B from {len(content):,} B\n" in capsys.readouterr().out
    assert plain.read_bytes() == kc.expand(content) != content
    data = np.load(files / "data.npz")
    found = kc.measure(plain, data["x_test"], data["y_test"])
    assert found.accuracy > 0.8
    assert run("expand", f"--model={plain}", f"--out={again}") == 0
    assert "no weights were encoded" in capsys.readouterr().out
    assert again.read_bytes() == plain.read_bytes()


def test_expand_refuses_in_one_line(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = f"--out={tmp_path}/plain.tflite"
    text, damaged = tmp_path / "text.tflite", tmp_path / "damaged.tflite"
    text.write_text("This is no model." * 20, encoding="utf-8")
    content = (files / "encoded.tflite").read_bytes()
    # The header of an ancillary tensor: codec, and the format's and the codec's version.
    codec = {"lut": 0, "huffman": 1, "bitmap": 2}[kc.inspect_tflite(content).weights[0].storage]
    start = content.index(bytes([codec, 1, 0, 0, 1]))
    damaged.write_bytes(content[: start + 4] + b"\x09" + content[start + 5 :])
    assert "Expected a valid .tflite file" in error_of(capsys, "expand", f"--model={text}", out)
    assert "damaged.tflite" in error_of(capsys, "expand", f"--model={damaged}", out)
    assert "No such file" in error_of(capsys, "expand", f"--model={tmp_path}/none.tflite", out)
    folder = error_of(capsys, "expand", f"--model={files}/encoded.tflite", f"--out={tmp_path}")
    assert "Expected --out as a file" in folder
    assert sorted(tmp_path.iterdir()) == [damaged, text]


def test_compress_ends_in_a_file_for_tflite_micro(
    files: Path, tmp_path: Path, digits: datasets.Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*converted(files), f"--recipe={files}/quick.json", f"--out={tmp_path}"]
    assert run("compress", *arguments) == 0
    text = capsys.readouterr().out
    content = (tmp_path / "model_compressed.tflite").read_bytes()
    stats = kc.inspect_tflite(content)
    assert stats.operators["TFLM_DECODE"] >= 1
    row = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["stages"][1]
    assert row["raw_bytes"] == len(content) < len(kc.expand(content))
    assert row["weight_payload_bytes"] == stats.weight_payload_bytes
    assert row["sparsity"] == pytest.approx(stats.sparsity)
    assert row["accuracy"] == kc.measure(content, digits.x_test, digits.y_test, target="tflm").accuracy
    assert 0.5 < row["accuracy"] == pytest.approx(row["simulated_accuracy"], abs=0.003)
    assert "quick: its accuracy is TFLite-Micro's." in text
    assert "quick: its latency is its plain file's (`keras-compress expand`): LiteRT decodes no weights." in text


def test_a_storage_that_cannot_be_is_refused_before_the_training(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras.Model, "fit", lambda *a, **k: pytest.fail("trained before the check"))
    own = [f"--model={files}/model.keras", f"--data={files}/data.npz", f"--out={tmp_path}/out"]
    line = error_of(capsys, "compress", *own, f"--recipe={files}/quick.json", "--weights_storage=huffman")
    assert "Expected --target=tflm for --weights_storage=huffman. Received: --target=litert" in line
    line = error_of(capsys, "compress", *own, f"--recipe={files}/float.json", "--target=tflm", "--weights_storage=auto")
    assert "Expected a recipe with a stage `quantize_model` for --weights_storage=auto. Received: float" in line
    line = error_of(capsys, "compress", *own, f"--recipe={files}/float.json", "--target=ethos_u")
    assert "Expected a recipe with a stage `quantize_model` for --target=ethos_u" in line
    line = error_of(
        capsys, "compress", *own, f"--recipe={files}/quick.json", "--target=ethos_u", "--weights_storage=auto"
    )
    assert "Expected no --weights_storage for --target=ethos_u: Vela compresses weights itself" in line
    assert not (tmp_path / "out").exists()


def test_the_packaged_recipe_prunes_in_steps_and_the_first_layer_less() -> None:
    stage = Recipe.load("deep_compression").stages[0]
    usual = kc.PolynomialDecay(**{**stage.config["pruning_schedule"]["config"], "total_steps": 800, "frequency": 100})
    first = kc.PolynomialDecay(**{**stage.rules[0]["pruning_schedule"]["config"], "total_steps": 800, "frequency": 100})
    steps = [step for step in range(800) if bool(usual.should_update(step))]
    assert steps == [0, 100, 200, 300, 400, 500, 600]
    assert [float(usual(step)) for step in (0, 300, 600)] == pytest.approx([0.5, 0.85 - 0.35 / 8, 0.85])
    assert float(first(600)) == pytest.approx(0.5)
