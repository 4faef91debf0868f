"""`docs/deep_compression.md` is made of the results there are."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent
RESULTS = FOLDER / "benchmarks" / "results"


def test_the_page_is_made_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (RESULTS / "deep_compression.json").is_file():
        pytest.skip("no checkout around these tests")
    monkeypatch.syspath_prepend(str(FOLDER / "benchmarks"))
    from deep_compression_table import page

    assert (FOLDER / "docs" / "deep_compression.md").read_text() == page(RESULTS)
