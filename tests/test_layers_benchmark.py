"""`docs/layers.md` says what happens now: a few cheap rows, tried again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent
RESULTS = FOLDER / "benchmarks" / "results" / "layers.json"
# Of each kind of row: works, refused, float, exact on one runtime only.
ROWS = [
    "Dense", "LSTM, stateful", "UnitNormalization", "1 - x", "ops.where(x > 0, x, 0.1 x)",
]  # fmt: skip


@pytest.fixture(scope="module")
def results() -> Any:
    if not RESULTS.is_file():
        pytest.skip("no checkout around these tests")
    return json.loads(RESULTS.read_text())


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER / "benchmarks"))
    import layer_trials

    return layer_trials


def test_the_page_is_made_of_the_results(results: Any, trials: Any) -> None:
    from layer_table import markdown

    assert (FOLDER / "docs" / "layers.md").read_text() == markdown(results)


def test_all_rows_are_in_the_results_and_forty_run_on_both(results: Any, trials: Any) -> None:
    from layer_rows import ROWS as ALL

    assert [row["name"] for row in results["rows"]] == [row.name for row in ALL]
    assert len({row.name for row in ALL}) == len(ALL)
    assert trials.on_both(results["rows"]) >= 40
    assert trials.UNFORESEEN not in json.dumps(results["rows"])


@pytest.mark.filterwarnings("ignore:.*has seen no training batch")
@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_what_the_table_says(results: Any, trials: Any, name: str) -> None:
    """The int8 and training columns; differences may sink with other versions of the runtimes, not grow."""
    from layer_rows import ROWS as ALL

    (row,) = [row for row in ALL if row.name == name]
    (written,) = [row for row in results["rows"] if row["name"] == name]
    model = row.model()
    x = trials.data_of(row, model)
    if row.own:
        assert trials.attempt(lambda: trials.prune(row)) == written["cells"]["prune"]
    for target, kernels in trials.KERNELS.items():
        found = trials.attempt(lambda t=target, k=kernels: trials.deployed(model, x, t, "int8", k))
        expected = written["cells"][target]
        assert found["status"] == expected["status"]
        assert found.get("reason") == expected.get("reason")
        assert found.get("float_ops") == expected.get("float_ops")
        if expected.get("lsb") is not None:
            assert found["lsb"] <= expected["lsb"]
