"""The models in `tflite_models/` are what their cards say."""

from __future__ import annotations

import importlib
import io
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import pytest

import keras_compress as kc
from keras_compress.demo import datasets
from keras_compress.runtime.target import target
from keras_compress.tflite.inspection import inspect_tflite

FOLDER = Path(__file__).parent.parent / "tflite_models"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no checkout around these tests")
FIGURES: dict[str, dict[str, Any]] = json.loads((FOLDER / "figures.json").read_text()) if FOLDER.is_dir() else {}
RUNS = [(name, runtime) for name, each in FIGURES.items() for runtime in ("litert", "tflm") if runtime in each]
FLOAT = {"digits_float", "fashion_float"}
ENCODED = {"digits_encoded", "fashion_ternary", "fashion_encoded"}
# Of one image more or less, where kernels add floats in another order.
FLOAT_IMAGES = 1
# Between machines, their loads and their clocks.
TIMES = 30


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    names = ("files", "figures", "cards", "trained", "make")
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(FOLDER))
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture
def data(request: pytest.FixtureRequest) -> Any:
    """Data set of a file, or the test is skipped."""

    def of_file(name: str) -> datasets.Dataset:
        found: datasets.Dataset = request.getfixturevalue("digits" if name.startswith("digits") else "fashion_mnist")
        return found

    return of_file


def content(name: str) -> bytes:
    return (FOLDER / f"{name}.tflite").read_bytes()


def runner_of(runtime: str) -> Any:
    found = target(runtime)
    reason = found.available()
    if reason is not None:
        pytest.skip(f"{runtime} is not available here: {reason}")
    return found


def accuracy(name: str, runtime: str) -> float:
    return FIGURES[name][runtime]["right"] / FIGURES[name][runtime]["images"]


def test_the_page_is_made_of_the_figures(scripts: dict[str, ModuleType]) -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert list(FIGURES) == list(scripts["files"].FILES)
    assert {path.stem for path in FOLDER.glob("*.tflite")} == set(FIGURES)
    assert scripts["cards"].page(text, FIGURES) == text
    for name, each in FIGURES.items():
        card = text.split(f"### {name}\n")[1].partition("\n#")[0]
        assert each["sha256"] in card
        assert f"| file | {each['raw_bytes']:,} B, " in card
    with pytest.raises(ValueError, match="once each"):
        scripts["cards"].page("", FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_what_is_in_the_file(name: str, scripts: dict[str, ModuleType]) -> None:
    found = scripts["figures"].of_file(content(name))
    # zlib differs between Python builds.
    assert found.pop("gzip_bytes") == pytest.approx(FIGURES[name]["gzip_bytes"], rel=0.02)
    assert found.items() <= FIGURES[name].items()


@pytest.mark.parametrize(("name", "runtime"), RUNS)
def test_the_first_images_and_the_arena(name: str, runtime: str, scripts: dict[str, ModuleType], data: Any) -> None:
    runner, said, images = runner_of(runtime), FIGURES[name][runtime], data(name)
    part = said["part"]
    found = scripts["figures"].right(runner, content(name), images.x_test[:part], images.y_test[:part]).sum()
    assert found == pytest.approx(said["right_of_part"], abs=FLOAT_IMAGES if name in FLOAT else 0)
    assert said["images"] == len(images.x_test)
    assert abs(said["right"] / said["images"] - said["right_of_part"] / part) < 0.05
    if runtime == "tflm":
        assert runner.memory(content(name))["arena_bytes"] == said["arena_bytes"]


@pytest.mark.parametrize("runtime", ["litert", "tflm"])
def test_latencies_are_of_the_order_that_is_told(runtime: str, scripts: dict[str, ModuleType]) -> None:
    runner_of(runtime)
    names = [name for name, each in RUNS if each == runtime]
    found = scripts["figures"].latencies(runtime, {name: content(name) for name in names}, 50)
    for name in names:
        said = FIGURES[name][runtime]["latency"]
        assert said["p10_ms"] <= said["median_ms"] <= said["p90_ms"]
        assert 1 / TIMES < found[name]["median_ms"] / said["median_ms"] < TIMES
    assert found["fashion_channels"]["median_ms"] < found["fashion_int8"]["median_ms"] * 1.1


def test_methods_are_worth_what_the_page_says() -> None:
    size = {name: each["raw_bytes"] for name, each in FIGURES.items()}
    assert sum(size.values()) < 1_000_000
    for name, runtime in RUNS:
        floating = name.partition("_")[0] + "_float"
        assert accuracy(name, runtime) > accuracy(floating, runtime) - 0.025
    assert size["digits_encoded"] < size["digits_int8"] / 2
    assert size["fashion_int8"] < size["fashion_float"] / 3
    for name in ("fashion_w4a4", "fashion_ternary", "fashion_encoded", "fashion_channels"):
        assert size[name] < size["fashion_int8"] * 0.7
    times = {name: FIGURES[name]["tflm"]["latency"]["median_ms"] for name, runtime in RUNS if runtime == "tflm"}
    assert times["fashion_channels"] < times["fashion_int8"] < min(times["fashion_ternary"], times["fashion_encoded"])


@pytest.mark.parametrize(("name", "runtime"), RUNS)
def test_inputs_and_outputs_are_those_of_the_card(name: str, runtime: str) -> None:
    signature = runner_of(runtime).describe(content(name), name)
    (image,), (logits,) = signature.inputs, signature.outputs
    dtype, side = "float32" if name in FLOAT else "int8", 8 if name.startswith("digits") else 28
    assert (image.signature_name, image.shape, image.dtype) == ("image", (1, side, side, 1), dtype)
    assert (logits.signature_name, logits.shape, logits.dtype) == ("logits", (1, 10), dtype)
    assert len(image.scales) == len(logits.scales) == (0 if name in FLOAT else 1)


@pytest.mark.parametrize("name", sorted(set(FIGURES) - ENCODED))
def test_labels_are_in_the_file(name: str) -> None:
    with zipfile.ZipFile(io.BytesIO(content(name))) as archive:
        labels = archive.read("labels.txt").decode().splitlines()
    assert labels[9] == ("9" if name.startswith("digits") else "Ankle boot")
    assert len(labels) == 10


@pytest.mark.parametrize("name", sorted(set(FIGURES) - FLOAT))
def test_weights_are_what_the_method_makes(name: str) -> None:
    stats = inspect_tflite(kc.expand(content(name)) if name in ENCODED else content(name))
    weights = {weight.name: weight for weight in stats.weights if len(weight.shape) > 1}
    assert {weight.dtype for weight in weights.values()} <= {"INT8", "INT4"}
    assert not {"QUANTIZE", "DEQUANTIZE"} & set(stats.operators)
    # First and last layer keep 8 bits.
    inner = list(weights.values())[1:-1]
    values = max(weight.distinct_values for weight in inner)
    if name == "fashion_ternary":
        assert values <= 3
    elif name == "fashion_w4a4":
        assert {weight.dtype for weight in inner} == {"INT4"}
    elif name in ("digits_int8", "digits_encoded", "fashion_encoded"):
        assert values <= 16
    elif name == "fashion_channels":
        assert sum(weight.shape[0] for weight in inner) < 48 + 64 + 32


def array_of(source: str) -> bytes:
    body = source.split("= {")[1].split("};")[0]
    return bytes(int(byte, 16) for byte in re.findall(r"0x[0-9a-f]{2}", body))


def test_the_sources_are_the_file(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    name, folder = scripts["files"].EXPORTED, FOLDER / scripts["files"].SOURCES
    assert array_of((folder / f"{name}_data.cc").read_text()) == content(name)
    arena = re.search(r"_ARENA_BYTES (\d+)", (folder / f"{name}_data.h").read_text())
    assert arena is not None
    assert int(arena[1]) >= FIGURES[name]["tflm"]["arena_bytes"]
    runner_of("tflm")
    paths = kc.export_c(content(name), tmp_path, name=name)
    assert {path.name: path.read_text() for path in paths} == {path.name: path.read_text() for path in folder.iterdir()}


def test_a_run_that_was_stopped_goes_on(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    trained: list[str] = []

    def maker(name: str) -> Any:
        def made() -> keras.Model:
            trained.append(name)
            return keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])

        return made

    def stages() -> Any:
        found = scripts["trained"].Stages(tmp_path)
        found._makers = {name: maker(name) for name in found._makers}
        return found

    first = stages()["digits_small"]
    assert trained == ["digits_base", "digits_small"]
    again = stages()
    assert again["digits_small"].get_weights()[0].tolist() == first.get_weights()[0].tolist()
    assert again["fashion_int8"] is not None
    assert trained == ["digits_base", "digits_small", "fashion_base", "fashion_int8"]
