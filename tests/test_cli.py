"""The command line: help, flags, exit codes, and the commands for a user's own files."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from keras_compress.cli import data as cli_data
from keras_compress.cli import main as cli
from keras_compress.cli.flags import COMMANDS
from keras_compress.demo import datasets

RECIPE = {
    "version": 1,
    "name": "quick",
    "stages": [
        {"name": "channels", "method": "prune_channels", "config": {"ratio": 0.05, "round_to": 1}, "epochs": 0},
        {
            "name": "prune",
            "method": "prune_low_magnitude",
            "config": {
                "pruning_schedule": {
                    "class_name": "ConstantSparsity",
                    "config": {"target_sparsity": 0.75, "begin_step": 0.0, "end_step": 0.5, "frequency": 1},
                }
            },
            "epochs": 1,
        },
        {"name": "quantize", "method": "quantize_model", "epochs": 1},
    ],
}


def run(*arguments: str) -> int:
    return cli.main(["keras-compress", *arguments])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, digits: datasets.Dataset) -> Path:
    """A folder with a trained model, data, a recipe and two converted models."""
    folder = tmp_path_factory.mktemp("files")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Flatten(name="flatten")(inputs)
    x = keras.layers.Dense(24, activation="relu", name="hidden")(x)
    model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax", name="classes")(x), name="net")
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(digits.x_train, digits.y_train, epochs=8, verbose=0)
    model.save(folder / "model.keras")
    (folder / "recipe.json").write_text(json.dumps(RECIPE), encoding="utf-8")
    np.savez(
        folder / "data.npz", x_train=digits.x_train, y_train=digits.y_train, x_test=digits.x_test, y_test=digits.y_test
    )
    common = [f"--model={folder}/model.keras", f"--data={folder}/data.npz"]
    assert run("convert", *common, f"--out={folder}/int8.tflite", "--io=int8") == 0
    assert run("convert", common[0], f"--out={folder}/float.tflite", "--mode=float32") == 0
    content = (folder / "int8.tflite").read_bytes()
    (folder / "truncated.tflite").write_bytes(content[: len(content) // 3])
    return folder


@pytest.mark.parametrize("arguments", [["--help"], ["help"], ["-h"]])
def test_help_names_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 0
    text = capsys.readouterr().out
    assert set(COMMANDS) == {
        "demo",
        "compress",
        "quantize",
        "factorize",
        "compact",
        "widen",
        "prune_one_shot",
        "from_tfmot",
        "convert",
        "measure",
        "verify",
        "inspect",
        "expand",
        "prune_iteratively",
        "sensitivity",
        "sparse_ready",
        "accumulator_bits",
        "estimate",
        "check",
        "fit",
        "export",
        "report",
        "recipes",
        "completion",
    }
    for name, command in COMMANDS.items():
        assert f"  {name}" in text
        assert command.summary in text
        assert f"  {command.example}" in text


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_a_command_has_its_own_flags_only(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    text = capsys.readouterr().out
    own = list(COMMANDS[name].flags())
    assert [line.strip() for line in text.splitlines() if line.startswith("  --")] == [f"--{flag}" for flag in own]
    assert COMMANDS[name].example in text
    assert ("--dataset" in text) == (name == "demo")
    if name == "compress":
        assert "pcqat, pqat, product_quantization, prune" in " ".join(text.split())


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_examples_are_accepted(name: str) -> None:
    parsed, values = cli.parse(COMMANDS[name].example.split()[1:])
    assert parsed == name
    assert values is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], ""),
        (
            ["train"],
            "Expected a command out of demo, compress, quantize, factorize, compact, widen, prune_one_shot, ",
        ),
        (["demo", "--dataset=mnist"], "flag --dataset=mnist: value should be one of <digits|fashion_mnist>"),
        (["demo", "--sede=3"], "Unknown command line flag 'sede'"),
        (["demo", "--seed=-1"], "flag --seed=-1"),
        (["demo", "--threads=2"], "Unknown command line flag 'threads'"),
        (["demo", "out"], "Expected flags such as --out=folder. Received: out"),
        (["measure"], "Expected --model= for `keras-compress measure`"),
        (["convert", "--model=m.keras"], "Expected --out= for"),
        (["measure", "--model=m.tflite", "--runs=3"], "flag --runs=3"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == (1 if arguments else 0)


def test_help_loads_no_tensorflow() -> None:
    code = "import sys; sys.argv = ['keras-compress', '--help']; from keras_compress.cli.main import main; main()"
    code += "; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    root = Path(cli.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60, check=False).returncode == 0


def test_help_in_a_process_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "keras_compress.cli", "demo", "--help"],
        cwd=Path(cli.__file__).parents[2], capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.startswith("keras-compress demo: ")
    assert done.stderr == ""


def test_help_that_nobody_reads_to_its_end() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m keras_compress.cli convert --help | true; exit ${{PIPESTATUS[0]}}"],
        cwd=Path(cli.__file__).parents[2], capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_truncated_file_in_a_process_of_its_own(files: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "keras_compress.cli", "measure", f"--model={files}/truncated.tflite"],
        cwd=Path(cli.__file__).parents[2], capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: Expected a valid .tflite file. Received: ")
    assert "truncated.tflite" in line


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a refused input."""
    capsys.readouterr()
    assert run(*arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("Error: ")
    return line


@pytest.mark.parametrize("command", ["measure", "inspect"])
def test_files_that_are_no_tflite(
    command: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.tflite"
    text.write_text("\x1b[31mThis is no model." * 20, encoding="utf-8")
    for path in (files / "truncated.tflite", text, files / "data.npz"):
        line = error_of(capsys, command, f"--model={path}")
        assert "Expected a valid .tflite file. Received: " in line
        assert path.name in line
        assert "\x1b" not in line
    assert "No such file" in error_of(capsys, command, f"--model={tmp_path}/none.tflite")


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("measure", f"--model={tmp_path}/none.tflite", "--debug") == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.splitlines()[-1].startswith("Error: ")


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    out = f"--out={tmp_path}/file/out"
    monkeypatch.setattr(keras.Model, "fit", lambda *a, **k: pytest.fail("trained before the check"))
    own = [f"--model={files}/model.keras", f"--data={files}/data.npz"]
    for arguments in (["demo", out], ["compress", *own, out], ["convert", *own, f"{out}/m.tflite"]):
        assert "Could not write to the folder" in error_of(capsys, *arguments)
    assert "Expected --out as a file" in error_of(capsys, "convert", *own, f"--out={tmp_path}")


def test_demo_settings_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = f"--out={tmp_path}"
    assert "Expected --epochs as one or 4 whole numbers" in error_of(capsys, "demo", out, "--epochs=3,2")
    assert "Expected --epochs" in error_of(capsys, "demo", out, "--epochs=0")
    assert "height and width >= 16 for 'lenet5'" in error_of(capsys, "demo", out, "--model=lenet5", "--epochs=1")


def test_fashion_mnist_that_is_not_there_names_the_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_COMPRESS_DATA", str(tmp_path))
    line = error_of(capsys, "demo", f"--out={tmp_path}/out", "--dataset=fashion_mnist")
    assert "apt-get install dataset-fashion-mnist" in line


def test_compress_writes_models_and_report(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a" / "b"
    arguments = [f"--model={files}/model.keras", f"--data={files}/data.npz", f"--recipe={files}/recipe.json"]
    assert run("compress", *arguments, f"--out={out}") == 0
    captured = capsys.readouterr()
    assert "the model's own loss, sparse_categorical_crossentropy" in captured.out
    assert captured.err.splitlines() == ["training stage prune", "training stage quantize"]
    assert sorted(p.name for p in out.iterdir()) == [
        "model_compressed.keras", "model_compressed.tflite", "report.html", "report.json", "report_page.json",
    ]  # fmt: skip
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    original, compressed = report["stages"]
    assert [original["name"], compressed["name"]] == ["original", "quick"]
    assert original["accuracy"] > 0.8
    assert compressed["accuracy"] > 0.6
    # Units that the zeros left without effect are cut out of the file, and their zeros with them.
    assert 0.7 < compressed["sparsity"] < 0.76
    assert compressed["raw_bytes"] == (out / "model_compressed.tflite").stat().st_size < original["raw_bytes"]
    assert keras.models.load_model(out / "model_compressed.keras").get_layer("hidden").layer.units == 23
    assert run("report", f"--out={out}") == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith(" quick")]
    assert len(table) == 1
    assert table[0] in captured.out


def test_compress_without_training_measures_on_the_data_there_is(
    files: Path, tmp_path: Path, digits: datasets.Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    # Samples to test on are of no use without labels.
    x = digits.x_test[:100].astype("float64")
    np.savez(tmp_path / "xy.npz", x=x, y=digits.y_test[:100], x_test=digits.x_test[100:])
    arguments = [f"--model={files}/model.keras", f"--data={tmp_path}/xy.npz", "--recipe=ptq"]
    assert run("compress", *arguments, f"--out={tmp_path}") == 0
    assert "Measured on the training data" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["stages"][1]["accuracy"] == pytest.approx(report["stages"][0]["accuracy"], abs=0.02)


def test_measure_says_that_it_measured_on_the_training_data(
    files: Path, tmp_path: Path, digits: datasets.Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "some.npz", x_train=digits.x_test[:20], y_train=digits.y_test[:20], x_test=digits.x_test[20:])
    assert run("measure", f"--model={files}/int8.tflite", f"--data={tmp_path}/some.npz", "--runs=50") == 0
    assert "Measured on the training data" in capsys.readouterr().out


def test_measure_shows_both_models(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"--model={files}/int8.tflite", f"--baseline={files}/float.tflite", f"--data={files}/data.npz"]
    assert run("measure", *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line.startswith(" ") and ".tflite" in line}
    assert set(rows) == {"int8.tflite", "float.tflite"}
    assert float(rows["float.tflite"][2]) > 80
    assert float(rows["int8.tflite"][2]) > 80
    assert sum("50 runs, 1 thread, XNNPACK" in line for line in lines) == 2


def test_measure_of_data_without_labels(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 8, 8, 1), np.float32))
    assert run("measure", f"--model={files}/int8.tflite", f"--data={tmp_path}/x.npz") == 0
    text = capsys.readouterr().out
    assert "has no labels" in text
    assert "acc." not in text


def document(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    """What a command with --json prints, which is nothing else."""
    capsys.readouterr()
    assert run(*arguments, "--json") == code
    return json.loads(capsys.readouterr().out)


def test_json_of_every_command_that_measures(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, data = f"--model={files}/int8.tflite", f"--data={files}/data.npz"
    measured = document(capsys, "measure", file, data, f"--baseline={files}/float.tflite")["measured"]
    assert measured["int8.tflite"]["raw_bytes"] == (files / "int8.tflite").stat().st_size
    assert measured["float.tflite"]["accuracy"] > 0.8
    inspected = document(capsys, "inspect", file)
    assert inspected["arithmetic"] == "int8"
    assert [step["operator"] for step in inspected["memory"]][-2:] == ["FULLY_CONNECTED", "SOFTMAX"]
    assert inspected["weights"][0]["elements"] == 64 * 24
    assert document(capsys, "inspect", f"--model={files}/model.keras")["rows"][0]["path"] == "hidden"
    verified = document(capsys, "verify", f"--model={files}/model.keras", data)
    assert verified["ok"]
    assert {row["kernel"] for row in verified["operators"]} == {"xnnpack", "reference"}
    assert document(capsys, "estimate", file, "--target=cortex_m")["macs"] == 64 * 24 + 24 * 10
    out = f"--out={tmp_path}/m.tflite"
    assert document(capsys, "convert", f"--model={files}/model.keras", "--mode=float32", out)["mode"] == "float32"
    assert len(document(capsys, "recipes")) == 36


def test_max_drop_is_an_exit_code(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"--model={files}/model.keras", f"--data={files}/data.npz", "--recipe=dorefa_w2a2", "--epochs=1"]
    report = document(capsys, "compress", *arguments, f"--out={tmp_path}", "--max_drop=0", code=1)
    assert report["notes"][0].startswith("MISSED --max_drop=0: the accuracy went from 0.")
    assert [row["arithmetic"] for row in report["stages"]] == ["float32", "int8"]
    assert (tmp_path / "model_compressed.tflite").is_file()
    assert run("compress", *arguments[:3], f"--out={tmp_path}", "--epochs=1,2") == 1
    assert "Expected --epochs as one or 1 whole numbers" in capsys.readouterr().err
    assert run("compress", *arguments[:3], f"--out={tmp_path}", "--max_arena_bytes=9") == 1
    assert "Expected --target=tflm for --max_arena_bytes" in capsys.readouterr().err


def test_recipes_and_completion_load_no_tensorflow() -> None:
    code = "import sys; from keras_compress.cli.main import main"
    code += "; codes = [main(['keras-compress', *a.split()]) for a in ('recipes', 'recipes --show=qat', 'completion')]"
    code += "; sys.exit(any(codes) or 'tensorflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv = ['keras-compress']; {code}"],
        cwd=Path(cli.__file__).parents[2], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.partition("{")[0].splitlines())) <= 100
    for words in ("qat (2 epochs)", '"method": "quantize_model"', "--max_drop"):
        assert words in done.stdout


def test_names_that_are_none_are_answered_with_the_nearest(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [f"--model={files}/model.keras", f"--data={files}/data.npz", f"--out={tmp_path}"]
    stage = {"name": "a", "method": "quantize_model", "config": {}}
    for stages, meant in (
        ([{**stage, "epoch": 3}], "epochs"),
        ([{**stage, "method": "quantise_model"}], "quantize_model"),
        ([{**stage, "config": {"weight": "int8"}}], "weights"),
        ([{**stage, "config": {"weights": {"class_name": "LSQQ", "config": {}}}}], "LSQ"),
    ):
        (tmp_path / "r.json").write_text(json.dumps({"version": 1, "name": "r", "stages": stages}))
        assert f"(did you mean '{meant}'?)" in error_of(capsys, "compress", *own, f"--recipe={tmp_path}/r.json")
    assert "(did you mean 'pcqat'?)" in error_of(capsys, "compress", *own, "--recipe=pcqaat")
    assert "(did you mean 'qat'?)" in error_of(capsys, "recipes", "--show=qta")


def test_inspect_reads_both_kinds_of_file(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", f"--model={files}/int8.tflite") == 0
    text = capsys.readouterr().out
    assert "FULLY_CONNECTED" in text
    assert "INT8" in text
    assert run("inspect", f"--model={files}/model.keras") == 0
    assert "hidden" in capsys.readouterr().out


def test_verify_passes_on_the_real_runtime(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", f"--model={files}/model.keras", f"--data={files}/data.npz") == 0
    text = capsys.readouterr().out
    assert "Verified on xnnpack" in text
    assert "Verified on reference" in text


def test_convert_needs_data_or_a_mode(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, "convert", f"--model={files}/model.keras", f"--out={tmp_path}/m.tflite")
    assert "Expected --data= to find the ranges for int8, or --mode=float32" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("batch_size", "signature"), [("any", -1), ("3", 3), ("auto", -1)])
def test_convert_for_a_number_of_samples(files: Path, tmp_path: Path, batch_size: str, signature: int) -> None:
    out = tmp_path / "m.tflite"
    flags = ["--mode=float32", f"--batch_size={batch_size}", f"--out={out}"]
    assert run("convert", f"--model={files}/model.keras", *flags) == 0
    details = Interpreter(model_path=str(out)).get_input_details()[0]
    assert details["shape_signature"][0] == signature


def test_convert_refuses_other_batch_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model=none.keras", f"--out={tmp_path}/m.tflite", "--batch_size=0.5"]
    assert "Expected a number, any or auto for --batch_size" in error_of(capsys, "convert", *flags)


def test_models_that_do_not_load(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = f"--data={files}/data.npz", f"--out={tmp_path}/out"
    whole = (files / "model.keras").read_bytes()
    truncated = tmp_path / "truncated.keras"
    truncated.write_bytes(whole[: len(whole) // 2])
    empty = tmp_path / "empty.keras"
    zipfile.ZipFile(empty, "w").close()
    for path in (truncated, files / "int8.tflite"):
        line = error_of(capsys, "compress", f"--model={path}", data, out)
        assert "Expected a Keras 3 model in a .keras file" in line
    assert "Expected a .keras file that loads" in error_of(capsys, "compress", f"--model={empty}", data, out)
    assert "No such file" in error_of(capsys, "compress", f"--model={tmp_path}/none.keras", data, out)
    assert not (tmp_path / "out").exists()


def test_code_in_a_model_is_not_run(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x + 1), keras.layers.Dense(2)])
    model.save(tmp_path / "lambda.keras")
    line = error_of(capsys, "inspect", f"--model={tmp_path}/lambda.keras")
    assert "Expected a .keras file that loads in safe mode" in line


X, Y = np.zeros((4, 8, 8, 1), "float32"), np.array([0, 1, 2, 3])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "Expected x_train, y_train or x, y in"),
        (
            {"inputs": X, "labels": Y},
            r"Expected arrays out of ('x_train', 'y_train', 'x_val', 'y_val', 'x_test', 'y_test', 'x', 'y')",
        ),
        ({"x": X, "y": Y[:3]}, "Expected as many labels as samples in"),
        ({"x": X[:0], "y": Y[:0]}, "Expected at least one sample in `x`"),
        ({"x": X * np.nan, "y": Y}, "Expected finite numbers in `x`"),
        ({"x": X[..., 0], "y": Y}, "Expected samples of shape (samples, 8, 8, 1) in"),
        ({"x": np.array(["a"] * 4), "y": Y}, "Expected numbers in `x`"),
        ({"x": np.array([{}] * 4), "y": Y}, "Expected arrays of numbers in an .npz file"),
    ],
)
def test_data_that_do_not_fit(
    arrays: dict[str, Any], message: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    arguments = [f"--model={files}/model.keras", f"--data={tmp_path}/data.npz", f"--out={tmp_path}/out"]
    assert message in error_of(capsys, "compress", *arguments, "--recipe=ptq")


def test_data_files_that_are_no_npz(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "array.npy", X)
    whole = (files / "data.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    model, out = f"--model={files}/model.keras", f"--out={tmp_path}/out"
    for name in ("array.npy", "cut.npz"):
        assert "Expected an .npz file" in error_of(capsys, "compress", model, f"--data={tmp_path}/{name}", out)


def test_recipes_are_checked_before_the_model_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model=none.keras", "--data=none.npz", "--recipe=nonsense", f"--out={tmp_path}"]
    line = error_of(capsys, "compress", *arguments)
    assert "Expected a recipe out of ['block_sparse'" in line


def task(last: str | None, classes: int, y: Any, loss: Any = None) -> cli_data.Task:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(classes, activation=last)])
    if loss is not None:
        model.compile("sgd", loss)
    return cli_data.task_of(model, np.asarray(y))


def test_loss_follows_from_labels_and_last_activation() -> None:
    logits = task(None, 3, [0, 2, 1])
    assert logits.reason == "SparseCategoricalCrossentropy by the labels, from_logits=True by the last activation"
    assert logits.new_loss().get_config()["from_logits"] is True
    assert task("softmax", 3, [0, 2, 1]).new_loss().get_config()["from_logits"] is False
    assert "CategoricalCrossentropy by" in task("softmax", 2, [[0, 1], [1, 0]]).reason
    assert task("sigmoid", 1, [0, 1, 1]).name == "binary classification"
    assert task(None, 1, [0.0, 2.5, 1.0]).name == "regression"


def test_the_compiled_loss_comes_first() -> None:
    found = task("softmax", 3, [0, 2, 1], keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert found.reason == "the model's own loss, SparseCategoricalCrossentropy"
    assert found.new_loss().get_config()["from_logits"] is True
    assert task(None, 3, [[0.5, 1, 2]], "mean_absolute_error").name == "regression"


def test_metrics() -> None:
    logit = task(None, 1, [0, 1, 1])
    assert logit.metric([np.array([[0.2], [0.3], [-4.0]])], [0, 1, 1]) == pytest.approx(1 / 3)
    probability = task("sigmoid", 1, [0, 1, 1])
    assert probability.metric([np.array([[0.2], [0.3], [0.9]])], [0, 1, 1]) == pytest.approx(2 / 3)
    number = task(None, 1, [0.5, 1.5])
    assert number.metric([np.array([[1.0], [1.0]])], [0.5, 2.5]) == pytest.approx(1.0)


def test_labels_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="Expected class numbers from 0 to 2. Received: 0 to 3"):
        task("softmax", 3, [0, 3])
    with pytest.raises(ValueError, match="Expected labels as class numbers"):
        task("softmax", 3, [[0.5, 0.5]])


def test_an_unexpected_error_names_its_class() -> None:
    assert cli.describe(ZeroDivisionError("division by zero")) == (
        "ZeroDivisionError: division by zero (--debug shows where)"
    )
    assert cli.describe(ValueError("two\n  lines\x1b[31m")) == "two lines [31m"
