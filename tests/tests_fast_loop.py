"""Which tests `pytest -m fast` runs: all but those that a recorded run of the whole suite found long.

`tests/long_tests.json` names them, as `file::function` or as a file. `pytest -n 2 --record_times` runs everything and
writes it anew: what uses a runtime is `"runtime"`, and of the rest the longest are `"slow"`, so many that the others
take `BUDGET_SECONDS`. Of a function with parameters, the fast loop runs each value of each once, not all pairs.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

LONG_TESTS = Path(__file__).with_name("long_tests.json")
# Of one process: two of them need 2 minutes, with 20 s for imports and for finding the tests.
BUDGET_SECONDS = 2 * 100.0
Parameters = frozenset[tuple[str, int]]


def function_of(node: str) -> str:
    """`tests/test_a.py::test_b[1-2]` -> `tests/test_a.py::test_b`."""
    return node.partition("[")[0]


class ParametersSeen:
    """Which values of its parameters a test function has been given so far.

    A function with two parameters runs for all pairs; its lines run where each value occurs once.

    >>> seen = ParametersSeen()
    >>> [seen.adds("f", frozenset(each.items())) for each in ({"a": 0, "b": 0}, {"a": 1, "b": 1}, {"a": 1, "b": 0})]
    [True, True, False]
    """

    def __init__(self) -> None:
        self._seen: dict[str, set[Any]] = defaultdict(set)

    def adds(self, function: str, parameters: Parameters) -> bool:
        """Whether a value is new, which it no longer is behind this."""
        seen, values = self._seen[function], parameters or {("", 0)}
        new = not seen.issuperset(values)
        seen.update(values)
        return new


def mark(items: Iterable[Any], long: Mapping[str, Iterable[str]]) -> None:
    """Give each test its markers: `runtime`, `slow`, `repeated`, or `fast` where it has none of them."""
    names = {marker: frozenset(listed) for marker, listed in long.items()}
    seen = ParametersSeen()
    for item in items:
        function = function_of(item.nodeid)
        keys = {function, function.partition("::")[0]}
        markers = [marker for marker, listed in names.items() if keys & listed]
        parameters = frozenset(item.callspec.indices.items()) if hasattr(item, "callspec") else frozenset()
        if not seen.adds(function, parameters):
            markers.append("repeated")
        for marker in markers or ["fast"]:
            item.add_marker(marker)


class Recorder:
    """Plugin of a run that is recorded, in each of its processes; one of them writes the file."""

    def __init__(self, writes: bool) -> None:
        self.writes = writes
        self.requests = 0
        # Place and name of a fixture that tests share -> how long it took; and how much of that was in this test.
        self.fixtures: dict[tuple[str, str], float] = {}
        self.paid = 0.0
        self.seconds: dict[str, float] = defaultdict(float)
        self.runtime: set[str] = set()

    def pytest_sessionstart(self) -> None:
        """Count what is asked of runtimes: tests share their processes, so that starts would not tell."""
        from keras_compress.runtime.child import Child

        request = Child.request

        def counted(child: Child, *arguments: Any, **settings: Any) -> Any:
            self.requests += 1
            return request(child, *arguments, **settings)

        Child.request = counted  # type: ignore[method-assign]

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Any:
        begin = time.perf_counter()
        made = yield
        if fixturedef.scope != "function":
            seconds = time.perf_counter() - begin
            self.fixtures[fixturedef.baseid, fixturedef.argname] = seconds
            self.paid += seconds
        return made

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: Any) -> None:
        self.requests, self.paid = 0, 0.0

    def pytest_runtest_teardown(self, item: Any) -> None:
        repeated = item.get_closest_marker("repeated") is not None
        # Whichever test comes first makes what many share: each counts for it.
        shared = sum(
            seconds
            for (place, name), seconds in self.fixtures.items()
            if name in item.fixturenames and item.nodeid.startswith(place)
        )
        found = {"runtime": self.requests > 0, "repeated": repeated, "shared_seconds": shared - self.paid}
        item.user_properties += found.items()

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] += report.duration
        found = dict(report.user_properties)
        self.seconds[report.nodeid] += found.get("shared_seconds", 0.0)
        if found.get("runtime"):
            self.runtime.add(function_of(report.nodeid))
        if found.get("repeated"):
            del self.seconds[report.nodeid]

    def pytest_sessionfinish(self) -> None:
        if self.writes:
            found = {"runtime": sorted(self.runtime), "slow": slowest(self.seconds, self.runtime, BUDGET_SECONDS)}
            LONG_TESTS.write_text(json.dumps(found, indent=1) + "\n")


def slowest(seconds: Mapping[str, float], left_out: Iterable[str], budget_seconds: float) -> list[str]:
    """Functions to leave out, in order of their names: the longest, so many that the others fit the budget.

    Args:
        seconds: Of each test; that of a function with parameters counts by its mean.
        left_out: Functions that are left out already.
        budget_seconds: For all tests together.

    >>> slowest({"a[0]": 3.0, "a[1]": 1.0, "b": 2.5, "c": 0.5, "d": 9.0}, ["d"], 3.0)
    ['a', 'b']
    """
    times: dict[str, list[float]] = defaultdict(list)
    for node, each in seconds.items():
        times[function_of(node)].append(each)
    shortest_first = sorted(set(times) - set(left_out), key=lambda name: sum(times[name]) / len(times[name]))
    total, found = 0.0, []
    for name in shortest_first:
        total += sum(times[name])
        if total > budget_seconds:
            found.append(name)
    return sorted(found)
