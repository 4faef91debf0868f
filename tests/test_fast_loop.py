"""The list of long tests names tests that are there, and the choice of fast ones is right."""

from __future__ import annotations

import ast
import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests_fast_loop import LONG_TESTS, ParametersSeen, chosen, lines_of_tests, mark

REPOSITORY = Path(__file__).parents[1]


@cache
def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_the_listed_tests_are_there() -> None:
    listed = json.loads(LONG_TESTS.read_text())
    assert set(listed) == {"runtime", "slow"}
    gone: list[str] = []
    for file, functions in [*listed["runtime"].items(), *listed["slow"].items()]:
        path = REPOSITORY / file
        if not path.is_file():
            gone.append(file)
        elif file.startswith("tests/"):
            names = functions_of(path)
            gone += [f"{file}::{name}" for name in functions if name.rpartition("::")[2] not in names]
    assert not gone, f"Renamed or gone; a recorded run writes {LONG_TESTS.name} anew: {gone}"


class Item(SimpleNamespace):
    def add_marker(self, marker: str) -> None:
        self.markers = [*getattr(self, "markers", []), marker]


def test_each_test_has_a_marker() -> None:
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1)]
    both = [Item(nodeid=f"a.py::f[{i}-{j}]", callspec=Item(params={"i": i, "j": j})) for i, j in pairs]
    others = [Item(nodeid=name) for name in ("a.py::g", "a.py::h", "b.py::f")]
    mark([*both, *others], {"runtime": {"b.py": [], "a.py": ["h"]}, "slow": {"a.py": ["h"]}})
    assert [item.markers for item in both] == [["fast"], ["fast"], ["fast"], ["repeated"]]
    assert [item.markers for item in others] == [["fast"], ["runtime", "slow"], ["runtime", "fast"]]


VALUES = ([0], [1])


@pytest.mark.parametrize("first", VALUES)
@pytest.mark.parametrize("second", VALUES)
def test_a_value_is_the_same_object_in_all_pairs(first: list, second: list, request: pytest.FixtureRequest) -> None:
    assert {id(value) for value in request.node.callspec.params.values()} <= {id(value) for value in VALUES}


def test_a_test_without_parameters_runs_once_for_each_function() -> None:
    seen = ParametersSeen()
    assert [seen.adds(name, frozenset()) for name in ("f", "g", "f")] == [True, True, False]


def test_new_lines_come_first_then_short_tests() -> None:
    seconds = {"wide": 4.0, "again": 1.0, "other": 1.0, "short": 0.5, "long": 9.0}
    ran = {name: {("a.py", line) for line in range(end)} for name, end in (("wide", 8), ("again", 6), ("long", 100))}
    lines = {**ran, "other": {("b.py", 1)}, "short": {("a.py", 1)}}
    assert chosen(seconds, lines, 5.5) == ["again", "other", "short"]
    assert chosen(seconds, lines, 6.5) == ["again", "other", "short", "wide"]
    assert chosen(seconds, lines, 100.0) == sorted(seconds)
    assert chosen(seconds, lines, 0.5) == ["short"]
    assert chosen(seconds, lines, 2.0, short_seconds=0.6) == ["again", "short"]


def test_lines_of_a_function_are_those_of_all_its_cases(tmp_path: Path) -> None:
    coverage = pytest.importorskip("coverage")
    data = coverage.CoverageData(str(tmp_path / ".coverage"))
    for context, ran in (("", [1, 2]), ("t.py::f[0]|setup", [2, 3]), ("t.py::f[1]|run", [4]), ("t.py::g|run", [2])):
        data.set_context(context)
        data.add_lines({"m.py": ran})
    (file,) = data.measured_files()
    assert lines_of_tests(data) == {"t.py::f": {(file, 3), (file, 4)}, "t.py::g": set()}
