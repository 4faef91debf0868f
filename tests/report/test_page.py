"""The report page: its figures against the files themselves, its text against hostile names, itself in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.report.page.charts import front
from keras_compress.report.page.distribution import distribution, path_of
from keras_compress.report.page.file_map import file_map
from keras_compress.report.page.render import headline, html_of
from keras_compress.tflite.flatbuffer import Graph, read_model

HOSTILE = "<script>document.title='taken'</script>\"'&\x1b[31m"


@pytest.fixture(scope="module")
def found() -> tuple[kc.Report, dict[str, kc.Artifact], keras.Model, Any]:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 12, 2), name="image")
    x = keras.layers.Conv2D(4, 3, bias_initializer="ones", name="first")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.ReLU(name="relu")(x)
    x = keras.layers.Flatten(name="flat")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, bias_initializer="ones", name="head")(x), name="small")
    data = np.random.default_rng(0).normal(size=(40, 12, 12, 2)).astype("float32")
    files = {"float": kc.convert(model, mode="float32"), HOSTILE: kc.convert(model, representative_dataset=data)}
    labels = model.predict(data, verbose=0).argmax(-1)
    return kc.report(files, data, labels, model=model, title=HOSTILE, command="python again.py"), files, model, data


def test_stages_are_measured(found: Any) -> None:
    report, files, _, _ = found
    first, last = report.figures["stages"]
    assert (first["name"], last["name"]) == ("float", HOSTILE)
    assert first["raw_bytes"] == len(files["float"].content)
    assert first["accuracy"] == 1.0
    assert last["litert_latency_ms"]["median"] > 0


def test_the_map_adds_up_to_the_file(found: Any) -> None:
    report, files, _, _ = found
    content = files[HOSTILE].content
    assert sum(part["bytes"] for part in report.figures["map"]) == len(content)
    sizes = {part["name"]: (part["kind"], part["bytes"]) for part in report.figures["map"]}
    # 3 x 3 x 2 x 4 and 10 x 10 x 4 x 3 weights of a byte, 4 and 3 biases of four.
    assert sizes["first/kernel"] == ("weights", 72)
    assert sizes["head/kernel"] == ("weights", 1200)
    assert sorted(size for kind, size in sizes.values() if kind == "biases") == [12, 16]


def test_encoded_weights_are_weights() -> None:
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, name="wide")])
    values = np.random.default_rng(1).choice([-1.0, 0.0, 1.0], (64, 64))
    model.layers[0].set_weights([values, np.zeros(64)])
    x = np.random.default_rng(2).normal(size=(8, 64)).astype("float32")
    content = kc.convert(model, "tflm", representative_dataset=x, weights_storage="huffman").content
    weights = [part["bytes"] for part in file_map(content) if part["kind"] == "weights"]
    assert sum(weights) == kc.inspect_tflite(content).weight_payload_bytes < 64 * 64 / 2


def test_weights_are_read_back_from_the_file(found: Any) -> None:
    report, files, model, _ = found
    row = next(row for row in report.figures["weights"] if row["name"] == "head/kernel")
    graph = Graph(read_model(files[HOSTILE].content))
    stored = next(graph.constant(n) for n in range(len(graph.tensors)) if graph.name(n) == "head/kernel")
    assert stored is not None
    assert (row["stored"]["low"], row["stored"]["high"]) == (stored.min(), stored.max())
    assert row["before"]["high"] == pytest.approx(model.get_layer("head").kernel.numpy().max())
    assert row["macs"] == 1200
    assert row["distinct"] == len(np.unique(stored))


def test_layers_have_the_distance_that_numpy_finds(found: Any) -> None:
    report, files, model, data = found
    row = next(row for row in report.figures["layers"] if row["name"] == "image")
    scale = (row["high"] - row["low"]) / 255
    rounded = np.clip(np.rint(data[:32] / scale) * scale, row["low"], row["high"])
    noise = np.square(data[:32] - rounded).sum()
    assert row["sqnr_db"] == pytest.approx(10 * np.log10(np.square(data[:32]).sum() / noise), abs=0.05)
    assert set(row["kernels"]) == {"xnnpack", "reference"}


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_stands_alone_and_obeys_no_name(found: Any) -> None:
    report, _, _, _ = found
    page = report.html()
    parser = _Tags()
    parser.feed(page)
    assert "script" not in {tag for tag, _ in parser.tags}
    assert "\x1b" not in page
    links = [value for _, attributes in parser.tags for key, value in attributes.items() if key in ("src", "href")]
    assert links
    assert all(link is not None and link.startswith("#") for link in links)
    assert not re.search(r"url\((?!#)|@import", page)
    # Every drawing says what it shows, and no two elements have one name.
    figures = [attributes for tag, attributes in parser.tags if attributes.get("role") == "img"]
    assert figures
    assert all(attributes["aria-label"] for attributes in figures)
    names = [attributes["id"] for _, attributes in parser.tags if "id" in attributes]
    assert len(names) == len(set(names))


def test_the_same_figures_give_the_same_page(found: Any) -> None:
    report, _, _, _ = found
    assert html_of(json.loads(json.dumps(report.figures))) == report.html()


def test_sensitivity_is_drawn(found: Any) -> None:
    _, files, model, data = found
    scan = kc.sensitivity(model, of="weights", data=(data, np.zeros(len(data), int)))
    page = kc.report(files["float"], model=model, sensitivity=scan).html()
    assert 'id="sensitivity"' in page


def test_a_file_alone_has_a_page(found: Any, tmp_path: Path) -> None:
    _, files, _, _ = found
    path = tmp_path / "model.tflite"
    path.write_bytes(files[HOSTILE].content)
    report = kc.report(path)
    report.save(tmp_path / "report.html")
    assert "accuracy" not in report.figures["stages"][0]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == report.html()


def test_what_is_no_report_is_refused(found: Any, tmp_path: Path) -> None:
    report, _, _, _ = found
    with pytest.raises(ValueError, match="at least one file"):
        kc.report({})
    with pytest.raises(ValueError, match=r"ends in \.html"):
        report.save(tmp_path / "report.pdf")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_shows_it_without_complaint(found: Any, tmp_path: Path) -> None:
    report, _, _, _ = found
    path = tmp_path / "report.html"
    report.save(path)
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--no-first-run", f"--user-data-dir={tmp_path / 'browser'}", "--enable-logging=stderr", "--dump-dom",
        path.as_uri(),
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in shown.stderr
    title = re.search("<title>(.*?)</title>", shown.stdout, re.DOTALL)
    assert title is not None
    assert title[1].startswith("&lt;script&gt;")


def test_distributions() -> None:
    few = distribution(np.array([-1, -1, 0, 1]))
    assert (few["at"], few["heights"], few["zeros"]) == ([0.0, 0.5, 1.0], [24, 12, 12], 0.25)
    assert path_of(few, 10) == "M1 24V0M5 24V12M9 24V12"
    many = distribution(np.arange(96.0))
    assert many["at"] is None
    assert many["heights"] == [24] * 48
    assert path_of(distribution(np.zeros(0))) == ""


def test_the_front_leaves_out_what_another_stage_beats() -> None:
    assert front([(1, 3.0), (2, 2.0), (2, 4.0), (3, 4.0)]) == [0, 2]
    assert front([(1, 3.0), (2, 2.0), (3, 2.5)], more_is_better=False) == [0, 1]


def test_the_headline_says_no_faster_within_the_spread() -> None:
    before = {"name": "float", "raw_bytes": 100, "litert_latency_ms": {"median": 1.0, "p10": 0.9, "p90": 1.1}}
    after = {"name": "int8", "raw_bytes": 99, "litert_latency_ms": {"median": 0.95, "p10": 0.9, "p90": 1.0}}
    size, latency = headline([before, after])
    assert size == "int8 takes 99 bytes, about as much as float (100)."
    assert latency.endswith("no difference beyond the spread.")
    slow = {**after, "litert_latency_ms": {"median": 2.0, "p10": 1.9, "p90": 2.1}}
    assert headline([before, slow])[1].endswith("2.0 times slower.")
