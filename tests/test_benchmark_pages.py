"""Pages of `docs/` that benchmarks write are made of the results there are."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent
RESULTS = FOLDER / "benchmarks" / "results"


@pytest.mark.parametrize("name", ["structured", "deep_compression", "recurrent", "distillation", "recipes"])
def test_the_page_is_made_of_the_results(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (RESULTS / f"{name}.json").is_file():
        pytest.skip("no checkout around these tests")
    monkeypatch.syspath_prepend(str(FOLDER / "benchmarks"))
    table = importlib.import_module(f"{name}_table")
    made = "recipes_measured" if name == "recipes" else name
    assert (FOLDER / "docs" / f"{made}.md").read_text() == table.page(RESULTS)


@pytest.mark.parametrize(
    ("name", "module", "tables"),
    [
        ("post_training", "post_training_table", "TABLES"),
        ("mixed_precision", "post_training_table", "OF_BITS"),
        ("low_rank", "low_rank_table", "TABLES"),
        ("compact_blocks", "blocks_table", "TABLES"),
        ("pruning", "sparsity_table", "TABLES"),
        ("lottery_ticket", "sparsity_table", "OF_TICKETS"),
        ("sparse_training", "sparsity_table", "OF_STEPS"),
        ("sparsity", "sparse_table", "TABLES"),
        ("native", "binary_speed_table", "TABLES"),
        ("binary_ternary", "binary_accuracy_table", "TABLES"),
        ("gradient_compression", "gradients_table", "TABLES"),
    ],
)
def test_tables_within_a_page_are_made_of_the_results(
    name: str, module: str, tables: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (RESULTS / "post_training.json").is_file():
        pytest.skip("no checkout around these tests")
    monkeypatch.syspath_prepend(str(FOLDER / "benchmarks"))
    table = importlib.import_module(module)
    path = FOLDER / "docs" / f"{name}.md"
    assert path.read_text() == table.page(path, getattr(table, tables), RESULTS)


def test_the_table_of_waiting_is_made_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (RESULTS / "waiting.json").is_file():
        pytest.skip("no checkout around these tests")
    monkeypatch.syspath_prepend(str(FOLDER / "benchmarks"))
    table = importlib.import_module("waiting_table")
    assert (RESULTS / "waiting.md").read_text() == table.page(RESULTS)
