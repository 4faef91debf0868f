"""`benchmarks/mutants.py` plants what it says, where it says."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
SOURCE = '''"""Words: 1 < 2."""
LIMIT = 3


def used(values: list[int], axis: int = -1) -> int:
    """More words."""
    if not values or len(values) >= LIMIT:
        raise ValueError(f"Expected {LIMIT - 1} values")
    total = max(values) - abs(values[0])
    total += scaled(total, 2.0, name="x")
    return total
'''


@pytest.fixture
def mutations(monkeypatch: pytest.MonkeyPatch):
    if not FOLDER.is_dir():
        pytest.skip("no checkout around these tests")
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("mutations")


def test_faults_of_a_source(mutations) -> None:
    found = {(fault.lines[0], fault.kind, fault.text) for fault in mutations.faults(SOURCE, "a.py")}
    assert found == {
        (2, "off by one", "4"),
        (5, "axis or place", "0"),
        (7, "and, or", "(not values and len(values) >= LIMIT)"),
        (7, "not removed", "(values)"),
        (7, "comparison", "len(values) > LIMIT"),
        (8, "deleted statement", "pass"),
        (9, "arithmetic", "(max(values) + abs(values[0]))"),
        (9, "min, max, round", "min"),
        (9, "abs removed", "(values[0])"),
        (9, "off by one", "1"),
        (10, "deleted statement", "pass"),
        (10, "arguments exchanged", "scaled(2.0, total, name='x')"),
        (10, "without name=", "scaled(total, 2.0)"),
        (10, "constant", "4.0"),
    }
    assert len({fault.key for fault in mutations.faults(SOURCE, "a.py")}) == 14


def test_a_fault_is_put_in_its_place(mutations) -> None:
    (fault,) = (each for each in mutations.faults(SOURCE, "a.py") if each.kind == "min, max, round")
    assert fault.apply(SOURCE) == SOURCE.replace("max(values)", "min(values)")
    marked = fault.apply(SOURCE, "reached()").splitlines()
    assert marked[8:10] == ["    reached()", "    total = min(values) - abs(values[0])"]
    assert mutations.is_fault(fault, SOURCE)
    # The key stays where lines are put before it.
    moved = mutations.faults(SOURCE.replace("LIMIT = 3", "\n\nLIMIT = 3"), "a.py")
    assert fault.key in {each.key for each in moved}
