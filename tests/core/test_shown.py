"""What a prompt and a notebook show of a result: a few lines, and nothing of a hostile name."""

from __future__ import annotations

import json

import keras
import pytest
from rich.table import Table

import keras_compress as kc
from keras_compress.convert.artifact import Artifact
from keras_compress.convert.lower import FloatOp
from keras_compress.core.shown import Shown, text_of
from keras_compress.pipelines.deep_compression import DeepCompression, Step
from keras_compress.pipelines.weight_sensitivity import WeightSensitivity
from keras_compress.runtime.estimate import Estimate
from keras_compress.runtime.measure import Measurement
from keras_compress.runtime.operators import OpRow
from keras_compress.runtime.target import Latency
from keras_compress.runtime.verification import OutputRow, Verification
from keras_compress.structured.sensitivity import GroupSensitivity

# Clears the screen, turns the direction of writing, and is a script for a browser.
HOSTILE = "\x1b[2J\u202e<script>alert(1)</script>\n[red]"
MANY = tuple(f"{HOSTILE}{number}" for number in range(500))


@pytest.fixture(scope="module")
def results() -> dict[str, Shown]:
    """One of each public kind, with far more in it than a prompt can take."""
    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(4, name=f"d{n}") for n in range(30))])
    artifact = kc.convert(net, mode="float32")
    floats = tuple(FloatOp(name, name, name) for name in MANY)
    artifact = Artifact(artifact.content, "litert", "int8", HOSTILE, net, {}, floats, MANY)
    latency = Latency(1.0, 0.9, 1.1, 50, 1, "XNNPACK", "a CPU", "x86_64")
    groups = tuple(GroupSensitivity(name, (name,), 8, (0.5,)) for name in MANY)
    sensitivity = WeightSensitivity("magnitude", 0.9, (0.5,), groups)
    rows = tuple(OpRow(name, "xnnpack", 2, 0.5, 2, 0.5, 0.01, False) for name in MANY)
    outputs = (OutputRow(HOSTILE, "xnnpack", 0.1, 0.5, 0.98),)
    layers = tuple({"operator": name, "cycles": 1} for name in MANY)
    stages = [
        {
            "name": "prune",
            "method": "prune_low_magnitude",
            "config": {
                "pruning_schedule": {
                    "class_name": "ConstantSparsity",
                    "config": {"target_sparsity": 0.5, "begin_step": 0},
                }
            },
        }
    ]
    distinct = dict.fromkeys(MANY, 3)
    steps = tuple(Step(name, 0.9, None, True) for name in MANY)
    return {
        "Artifact": artifact,
        "Estimate": Estimate("cortex_m", HOSTILE, {"core": "m4"}, 1, None, 2, 3, 4.0, {}, layers, MANY, MANY),
        "Verification": Verification(rows, outputs, {"tflm": HOSTILE}),
        "Measurement": Measurement(HOSTILE, "litert", 9, 8, 7, 0.5, distinct, latency, {"peak_memory_bytes": 6}, 0.5),
        "DeepCompression": DeepCompression(net, artifact, 0.9, 0.8, False, 0.5, steps, sensitivity),
        "WeightSensitivity": sensitivity,
        "FileStats": artifact.stats,
        "ModelSummary": kc.summary(kc.prune_low_magnitude(net), print_fn=lambda text: None),
        "ChannelGraph": kc.channel_graph(net),
        "Recipe": kc.Recipe.load({"version": 1, "name": "r", "stages": stages}),
    }


def test_a_few_lines_of_each(results: dict[str, Shown]) -> None:
    for name, found in results.items():
        text, page = repr(found), found._repr_html_()
        assert text.startswith(name), text
        assert 2 <= len(text.splitlines()) <= 9, text
        assert len(text) < 2000
        assert all(line.isprintable() for line in text.splitlines())
        assert "<script" not in page
        assert "\x1b" not in page
        assert page.count("<tr>") == len(text.splitlines()) - 1
        # In a list, a dict, an f-string, a failing assert: the same.
        assert str([found]) == f"[{text}]"


def test_what_is_told(results: dict[str, Shown]) -> None:
    text = repr(results["Verification"])
    assert text.splitlines()[0] == "Verification: NOT VERIFIED"
    assert "500 operators, at most 2 step in 50.000% of the values, 50.000% unexplained, argmax equal on 98.00%" in text
    assert "first failure" in text
    assert "0.5 of the values" not in text
    text = repr(results["Artifact"])
    assert f"{results['Artifact'].stats.raw_bytes:,} B" in text  # type: ignore[attr-defined]
    assert "and 497 more in .notes" in repr(
        Artifact(results["Artifact"].content, "tflm", "int8", "int8", notes=tuple("n" * 500))
    )  # type: ignore[attr-defined]
    assert "1 ms (p10 0.9, p90 1.1, 50 runs; 1 thread, XNNPACK, a CPU)" in repr(results["Measurement"])
    assert "RAM         not known" in repr(results["Estimate"])
    assert "NOT within the budget" in repr(results["DeepCompression"])
    assert "groups of weights" in repr(results["WeightSensitivity"])
    # Comparisons are still by value.
    assert results["WeightSensitivity"] == WeightSensitivity.from_json(results["WeightSensitivity"].to_json())  # type: ignore[attr-defined]


@pytest.mark.parametrize("place", ["name", "stage", "layers", "description"])
def test_a_recipe_has_nothing_that_a_terminal_obeys(place: str, tmp_path) -> None:
    stage = {"name": "prune", "method": "quantize_model", "rules": [{"layers": "a", "skip": True}]}
    recipe = {"version": 1, "name": "r", "description": "of\ttwo\nlines", "stages": [stage]}
    kc.Recipe.load(recipe)
    hostile = "a\x1b]0;owned\x07"
    if place == "stage":
        stage["name"] = hostile
    elif place == "layers":
        stage["rules"][0]["layers"] = ["a", hostile]  # type: ignore[index]
    else:
        recipe[place] = hostile
    with pytest.raises(ValueError, match="Expected printable text at `") as caught:
        kc.Recipe.load(recipe)
    path = tmp_path / f"r{hostile[:5]}.json"
    path.write_text(json.dumps({**recipe, hostile: 1}), encoding="utf-8")
    with pytest.raises(ValueError, match="of recipe") as in_file:
        kc.Recipe.load(path)
    assert str(caught.value).isprintable()
    assert str(in_file.value).isprintable()


def test_a_progress_line_has_nothing_either() -> None:
    from keras_compress.core.progress import ProgressLine

    line = ProgressLine("training")
    line.step(f"stage {HOSTILE}")
    assert line.text().isprintable()


def test_text_is_text_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table("layer")
    table.add_row("hidden")
    expected = text_of(table)
    assert "hidden" in expected
    # What rich does in a notebook: it shows there what is printed, and nothing reaches the file.
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert text_of(table) == expected
