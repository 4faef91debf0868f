"""`docs/structured.md` is made of the results there are."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent
RESULTS = FOLDER / "benchmarks" / "results"


def test_the_page_is_made_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (RESULTS / "structured.json").is_file():
        pytest.skip("no checkout around these tests")
    monkeypatch.syspath_prepend(str(FOLDER / "benchmarks"))
    from structured_table import page

    assert (FOLDER / "docs" / "structured.md").read_text() == page(RESULTS)
