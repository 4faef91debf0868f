"""`docs/quantizers.md` says what happens now: a few cheap rows, tried again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from keras_compress.demo import datasets

FOLDER = Path(__file__).parent.parent
RESULTS = FOLDER / "benchmarks" / "results"
ROWS = [("weight_transform", "TWN", None), ("activation_quantizer", "Pact", 2)]


@pytest.fixture(scope="module")
def results() -> Any:
    if not (RESULTS / "quantizer_exactness.json").is_file():
        pytest.skip("no checkout around these tests")
    return json.loads((RESULTS / "quantizer_exactness.json").read_text())


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER / "benchmarks"))
    import quantizer_trials

    return quantizer_trials


def test_the_page_is_made_of_the_results(results: Any, trials: Any) -> None:
    from quantizer_table import page

    assert (FOLDER / "docs" / "quantizers.md").read_text() == page(RESULTS)


def test_all_methods_are_in_the_results(results: Any, trials: Any) -> None:
    assert [(row["kind"], row["name"], row["bits"]) for row in results["rows"]] == trials.methods()
    assert {row["status"] for row in results["rows"]} <= {"ok", "refused"}


@pytest.mark.parametrize(("kind", "name", "bits"), ROWS)
def test_a_row_is_what_the_table_says(results: Any, trials: Any, kind: str, name: str, bits: int | None) -> None:
    whole, few = datasets.load("digits"), slice(64)
    data = dataclasses.replace(whole, x_test=whole.x_test[few], y_test=whole.y_test[few])
    found = trials.tried(kind, name, bits, data, epochs=1)
    assert found["status"] == "ok", found
    assert all(found["numpy_model"].values())
    assert found["runtimes"]["tflm"]["share"] == 0.0
