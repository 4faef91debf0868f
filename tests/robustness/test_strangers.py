"""Files from strangers run no code, take no more memory or time than they explain, and do nothing to a terminal."""

from __future__ import annotations

import io
import json
import os
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from ai_edge_litert.tools import flatbuffer_utils
from robustness.mutations_json import archive_of, members

import keras_compress as kc
from keras_compress.cli import main as cli
from keras_compress.cli.data import Data
from keras_compress.convert.keras_file import load_keras
from keras_compress.recipes.recipe import Recipe
from keras_compress.report.tables import tensor_table
from keras_compress.tflite import inspection

MODEL = Path(__file__).parents[2] / "tflite_models" / "digits_int8.tflite"
HOSTILE = "\x1b[31m[red]<script>alert(1)</script>\u202e"


class Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("plain") / "m.keras"
    layers = [keras.layers.LSTM(3, unroll=True, name="lstm"), keras.layers.Dense(2, name="dense")]
    keras.Sequential([keras.Input((4, 3)), *layers], name="net").save(path)
    return path.read_bytes()


def edited(content: bytes, edit: Callable[[dict[str, Any]], None], path: Path) -> Path:
    entries = members(content)
    config = json.loads(entries["config.json"])
    edit(config)
    path.write_bytes(archive_of(entries | {"config.json": json.dumps(config).encode()}))
    return path


def layer(config: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in config["config"]["layers"] if entry["config"]["name"] == name)


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["keras-compress", *arguments]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("Error: ")
    assert "--debug shows where" not in line
    return line


def test_a_lambda_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hacked = tmp_path / "hacked"
    place = str(hacked)
    made = keras.layers.Lambda(lambda x: os.mkdir(place) or x, output_shape=(2,))
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]).save(tmp_path / "m.keras")

    def insert(config: dict[str, Any]) -> None:
        config["config"]["layers"].append(keras.saving.serialize_keras_object(made))

    path = edited((tmp_path / "m.keras").read_bytes(), insert, tmp_path / "lambda.keras")
    for command in ("inspect", "convert"):
        arguments = [f"--model={path}", *([f"--out={tmp_path}/o.tflite", "--mode=float32"] * (command == "convert"))]
        line = error_of(capsys, command, *arguments)
        assert "Expected a .keras file that loads in safe mode" in line
        assert "lambda.keras" in line
    assert not hacked.exists()


@pytest.mark.parametrize(
    "entry",
    [
        {"module": "os", "class_name": "mkdir", "config": {"path": "hacked"}, "registered_name": "mkdir"},
        {"module": "builtins", "class_name": "eval", "config": {"source": "1"}, "registered_name": "eval"},
        {"module": "subprocess", "class_name": "Popen", "config": {"args": ["true"]}, "registered_name": None},
        {"module": "keras.utils", "class_name": "get_file", "config": {"origin": "file:///etc/passwd"}},
        {"class_name": "__lambda__", "config": {"value": "4wEAAAA="}},
    ],
)
def test_classes_that_are_no_layers_are_refused(entry: dict[str, Any], plain: bytes, tmp_path: Path) -> None:
    def insert(config: dict[str, Any]) -> None:
        config["config"]["layers"].append(entry)

    with pytest.raises(ValueError, match=r"Expected a .keras file that loads in safe mode. Received: .*other.keras"):
        load_keras(edited(plain, insert, tmp_path / "other.keras"))


def test_pickles_are_not_read(plain: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hacked = tmp_path / "hacked"
    np.savez(tmp_path / "data.npz", x=np.array([Touches(hacked)], dtype=object), y=np.zeros(1))
    made = io.BytesIO()
    np.savez(made, dense=np.array([Touches(hacked)], dtype=object))
    entries = members(plain)
    del entries["model.weights.h5"]
    (tmp_path / "npz.keras").write_bytes(archive_of(entries | {"model.weights.npz": made.getvalue()}))
    (tmp_path / "m.keras").write_bytes(plain)
    data, out = f"--data={tmp_path}/data.npz", f"--out={tmp_path}/out"
    assert "Expected arrays of numbers" in error_of(capsys, "compress", f"--model={tmp_path}/m.keras", data, out)
    assert "loads in safe mode" in error_of(capsys, "inspect", f"--model={tmp_path}/npz.keras")
    assert not hacked.exists()


def test_arrays_that_claim_to_be_huge_are_refused(tmp_path: Path) -> None:
    made = io.BytesIO()
    np.lib.format.write_array_header_1_0(made, {"descr": "<f4", "fortran_order": False, "shape": (10**15,)})
    (tmp_path / "data.npz").write_bytes(archive_of({"x.npy": made.getvalue() + bytes(64)}))
    with pytest.raises(ValueError, match="Expected arrays of numbers in an .npz file. Received: .*data.npz"):
        Data.load(tmp_path / "data.npz")


def test_members_outside_the_archive_and_bombs_are_refused(plain: bytes, tmp_path: Path) -> None:
    path = tmp_path / "inner" / "m.keras"
    path.parent.mkdir()
    for name in ("../slipped", "/tmp/slipped", "assets/../../slipped", "..\\slipped"):
        path.write_bytes(archive_of(members(plain) | {name: b"slipped"}))
        with pytest.raises(ValueError, match="lies outside the archive"):
            load_keras(path)
    path.write_bytes(archive_of(members(plain) | {"model.weights.h5": bytes(300_000_000)}, compress=True))
    assert path.stat().st_size < 1_000_000
    with pytest.raises(ValueError, match="bytes would become 300,"):
        load_keras(path)
    assert list(tmp_path.rglob("slipped")) == []


@pytest.mark.parametrize("units", [10**8, 10**11, 2**62])
def test_layers_larger_than_the_file_explains_are_never_made(units: int, plain: bytes, tmp_path: Path) -> None:
    def enlarge(config: dict[str, Any]) -> None:
        layer(config, "dense")["config"]["units"] = units

    path = edited(plain, enlarge, tmp_path / "large.keras")
    with pytest.raises(ValueError, match=r"large.keras .*its variables need more than 268,435,456 bytes"):
        load_keras(path)


def test_loading_has_a_time_limit(plain: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(path: Path) -> None:
        while True:
            time.sleep(0.01)

    path = tmp_path / "long.keras"
    path.write_bytes(plain)
    monkeypatch.setattr(keras.models, "load_model", endless)
    with pytest.raises(ValueError, match=r"long.keras \(it was not loaded in 0.2 s\)"):
        load_keras(path, time_limit_s=0.2)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_the_guards_must_let_through(plain: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.keras").write_bytes(plain)
    assert [v.shape for v in load_keras(tmp_path / "m.keras", 60.0).weights] == [
        (3, 12), (3, 12), (12,), (3, 2), (2,)]  # fmt: skip
    # A generator of seeds keeps a state, and a model can be compressed by this library.
    seeded = keras.initializers.HeNormal(keras.random.SeedGenerator(3))
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, kernel_initializer=seeded), keras.layers.Dense(2)]
    )
    compressed = kc.cluster_weights(model, 4)
    for number, made in enumerate((model, compressed)):
        made.save(tmp_path / f"{number}.keras")
        loaded = load_keras(tmp_path / f"{number}.keras")
        x = np.ones((1, 4), np.float32)
        np.testing.assert_array_equal(loaded(x), made(x))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("method", "__import__('os').system('true')", "Expected a method out of"),
        ("method", "os.system", "Expected a method out of"),
        ("config", {"pruning_schedule": {"class_name": "builtins.eval", "config": {}}}, "Expected a class out of"),
        ("config", {"pruning_schedule": {"class_name": "Lambda", "config": {}}}, "Expected a class out of"),
        ("config", {"pruning_schedule": {"class_name": "keras.layers.Dense", "config": {}}}, "Expected a class out of"),
        ("config", {"pruning_schedule": {"class_name": "ConstantSparsity", "module": "os"}}, "Received: ['module']"),
        ("config", {"__class__": "x"}, "Expected keys out of"),
        ("hook", "print(1)", "Expected keys out of"),
    ],
)
def test_recipes_name_only_what_is_registered(place: str, value: Any, message: str, tmp_path: Path) -> None:
    stage = {"name": "prune", "method": "prune_low_magnitude", place: value}
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"version": 1, "name": "r", "stages": [stage]}), encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        Recipe.load(path)
    assert message in str(caught.value)
    assert "recipe.json" in str(caught.value)


def with_names(name: bytes) -> bytes:
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(MODEL.read_bytes()))
    for tensor in model.subgraphs[0].tensors:
        tensor.name = name
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def harmless(text: str) -> None:
    """Markup and tags are shown as they are written, controls as their escape sequences."""
    plain_text = "".join(text.split())  # a narrow column folds its words
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[red]<script>" in plain_text
    assert r"\x1b[31m" in plain_text


def test_tensor_names_cannot_command_a_terminal_or_a_notebook(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "named.tflite"
    path.write_bytes(with_names(HOSTILE.encode()))
    assert cli.main(["kc", "inspect", f"--model={path}"]) == 0
    harmless(capsys.readouterr().out)
    html = tensor_table(kc.inspect_tflite(path), HOSTILE)._repr_mimebundle_([], [])["text/html"]
    assert "<script>" not in html
    assert "&lt;script&gt;" in html.replace("\n", "")
    assert "\x1b" not in html


def test_layer_names_cannot_command_a_terminal(
    plain: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = HOSTILE.replace("/", "")

    def rename(config: dict[str, Any]) -> None:
        layer(config, "dense")["config"]["name"] = name
        config["config"]["name"] = name

    path = edited(plain, rename, tmp_path / "named.keras")
    assert cli.main(["kc", "inspect", f"--model={path}"]) == 0
    harmless(capsys.readouterr().out)
    kc.summary(load_keras(path))
    harmless(capsys.readouterr().out)


def test_reports_cannot_command_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"name": HOSTILE, "raw_bytes": 1}
    report = {"title": HOSTILE, "stages": [row], "notes": [HOSTILE], "verification": {"lines": [HOSTILE]}}
    (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
    assert cli.main(["kc", "report", f"--out={tmp_path}"]) == 0
    out = capsys.readouterr().out
    harmless(out)
    assert out.count(r"\x1b") >= 4


def test_errors_cannot_command_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "r.json"
    recipe.write_text(json.dumps({"version": 1, "name": "x", "stages": [{"name": "a", "method": HOSTILE + "\ud800"}]}))
    line = error_of(
        capsys, "compress", "--model=none.keras", "--data=none.npz", f"--recipe={recipe}", f"--out={tmp_path}"
    )
    assert "\x1b" not in line
    assert "\u202e" not in line


def test_a_file_of_very_many_tables_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "_MOST_TABLES", 20)
    with pytest.raises(ValueError, match="it has more than 20 operators, tensors and buffers"):
        kc.inspect_tflite(MODEL)


def test_an_archive_of_zeros_is_read_by_no_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "zeros.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", bytes(100_000_000))
    assert "its configuration has 100,000,000 bytes" in error_of(capsys, "inspect", f"--model={path}")
