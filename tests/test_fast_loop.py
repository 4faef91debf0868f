"""The list of long tests names tests that are there, and the choice of fast ones is right."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from types import SimpleNamespace

from tests_fast_loop import LONG_TESTS, ParametersSeen, mark, slowest

REPOSITORY = Path(__file__).parents[1]


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_the_listed_tests_are_there() -> None:
    listed = json.loads(LONG_TESTS.read_text())
    assert set(listed) == {"runtime", "slow"}
    gone = []
    for name in [*listed["runtime"], *listed["slow"]]:
        file, _, function = name.partition("::")
        path, function = REPOSITORY / file, function.rpartition("::")[2]
        if not path.is_file() or (function and file.startswith("tests/") and function not in functions_of(path)):
            gone.append(name)
    assert not gone, f"Renamed or gone; a recorded run writes {LONG_TESTS.name} anew: {gone}"


class Item(SimpleNamespace):
    def add_marker(self, marker: str) -> None:
        self.markers = [*getattr(self, "markers", []), marker]


def test_each_test_has_a_marker() -> None:
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1)]
    both = [Item(nodeid=f"a.py::f[{i}-{j}]", callspec=Item(indices={"i": i, "j": j})) for i, j in pairs]
    others = [Item(nodeid=name) for name in ("a.py::g", "a.py::h", "b.py::f")]
    mark([*both, *others], {"runtime": ["b.py", "a.py::h"], "slow": ["a.py::h"]})
    assert [item.markers for item in both] == [["fast"], ["fast"], ["fast"], ["repeated"]]
    assert [item.markers for item in others] == [["fast"], ["runtime", "slow"], ["runtime"]]


def test_a_test_without_parameters_runs_once_for_each_function() -> None:
    seen = ParametersSeen()
    assert [seen.adds(name, frozenset()) for name in ("f", "g", "f")] == [True, True, False]


def test_the_longest_go_until_the_rest_fits() -> None:
    seconds = {"f[0]": 1.0, "f[1]": 3.0, "g": 1.5, "h": 0.25, "r": 0.1}
    assert slowest(seconds, ["r"], 10.0) == []
    assert slowest(seconds, ["r"], 5.0) == ["f"]
    assert slowest(seconds, ["r"], 1.0) == ["f", "g"]
