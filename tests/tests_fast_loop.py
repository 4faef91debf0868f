"""Which tests `pytest -m fast` runs: those that cover most of the package's lines within two minutes.

`tests/long_tests.json` names the others, as `{file: [function, ...]}`, no function being all of the file: `"slow"` is
left out; `"runtime"` says what asks LiteRT or TFLite-Micro, in the loop or not. Tests of less than a tenth of a second
are never listed. A new test is in the loop until the list is written anew:

    pytest -n 2 --record_times --cov=keras_compress --cov-context=test --cov-report=   # everything; needs pytest-cov
    python tests/tests_fast_loop.py

Of a function with parameters, the fast loop runs each value of each once, not all pairs.
"""

from __future__ import annotations

import heapq
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from coverage import CoverageData

LONG_TESTS = Path(__file__).with_name("long_tests.json")
# Of a recorded run, in the folder where it ran, beside `.coverage`.
TIMES = Path("recorded_times.json")
# Of one process: two of them need 2 minutes, with 20 s for imports and for finding the tests.
BUDGET_SECONDS = 2 * 100.0
# Functions that take less are in the loop in any case; to name them would make a list of thousands.
SHORT_SECONDS = 0.1
Parameters = frozenset[tuple[str, int]]
Line = tuple[str, int]
Listed = Mapping[str, Iterable[str]]


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


def by_file(names: Iterable[str], known: Iterable[str]) -> dict[str, list[str]]:
    """Functions by their files, none of a file of which all are named.

    >>> by_file(["a.py::f", "b.py::f"], ["a.py::f", "a.py::g", "b.py::f"])
    {'a.py': ['f'], 'b.py': []}
    """
    found: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        file, _, function = name.partition("::")
        found[file].append(function)
    counts = Counter(name.partition("::")[0] for name in set(known))
    return {file: [] if len(functions) == counts[file] else functions for file, functions in found.items()}


def mark(items: Iterable[Any], long: Mapping[str, Listed]) -> None:
    """Give each test its markers: `runtime`, and `slow`, `repeated` or `fast`."""
    names = {marker: {file: frozenset(of) for file, of in listed.items()} for marker, listed in long.items()}
    seen = ParametersSeen()
    for item in items:
        function = function_of(item.nodeid)
        file, _, name = function.partition("::")
        markers = [marker for marker, of in names.items() if file in of and (not of[file] or name in of[file])]
        # The values themselves: pytest's indices number the combinations. Those of a list are the same objects in all.
        values = item.callspec.params if hasattr(item, "callspec") else {}
        parameters = frozenset((name, id(value)) for name, value in values.items())
        if not seen.adds(function, parameters):
            markers.append("repeated")
        if not {"slow", "repeated"} & set(markers):
            markers.append("fast")
        for marker in markers:
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
            of_functions: dict[str, float] = defaultdict(float)
            for node, seconds in self.seconds.items():
                of_functions[function_of(node)] += seconds
            found = {"seconds": of_functions, "runtime": sorted(self.runtime)}
            TIMES.write_text(json.dumps(found, indent=1) + "\n")


def chosen(
    seconds: Mapping[str, float],
    lines: Mapping[str, Set[Line]],
    budget_seconds: float,
    short_seconds: float = 0.0,
) -> list[str]:
    """Functions for the fast loop: of those left, always the one with the most new lines a second.

    What is left of the budget when no function has new lines goes to the shortest ones.

    Args:
        seconds: Of each test function.
        lines: Which it runs.
        budget_seconds: For all tests together.
        short_seconds: Functions that take less come first.

    >>> ran = {"a": {1, 2, 3, 4}, "b": {1, 2}, "c": {5}, "d": {1}}
    >>> seconds = {"a": 4.0, "b": 1.0, "c": 1.0, "d": 0.5}
    >>> chosen(seconds, ran, 6.0), chosen(seconds, ran, 2.0)
    (['a', 'b', 'c'], ['b', 'c'])
    """
    found = [name for name in seconds if seconds[name] < short_seconds]
    covered = set().union(*(lines.get(name, set()) for name in found))
    left = budget_seconds - sum(seconds[name] for name in found)

    def place(name: str) -> tuple[float, float, str]:
        return -len(lines.get(name, set()) - covered) / (seconds[name] + 1e-3), seconds[name], name

    heap = [place(name) for name in seconds.keys() - set(found)]
    heapq.heapify(heap)
    while heap:
        *_, name = heapq.heappop(heap)
        # New lines only become fewer: whoever is still the first with those of now is the best of all.
        if heap and (now := place(name)) > heap[0]:
            heapq.heappush(heap, now)
        elif seconds[name] <= left:
            covered |= lines.get(name, set())
            left -= seconds[name]
            found.append(name)
    return sorted(found)


def lines_of_tests(data: CoverageData) -> dict[str, set[Line]]:
    """Which lines of the package each test function runs, its fixtures included, of a run with `--cov-context=test`."""
    found: dict[str, set[Line]] = defaultdict(set)
    for file in data.measured_files():
        for line, contexts in data.contexts_by_lineno(file).items():
            for name in {function_of(context.partition("|")[0]) for context in contexts}:
                found[name].add((file, line))
    # Of no test: what is run when modules are imported, and costs nothing.
    imported = found.pop("", set())
    return {name: lines - imported for name, lines in found.items()}


def main() -> None:
    from coverage import CoverageData

    recorded = json.loads(TIMES.read_text())
    data = CoverageData(".coverage")
    data.read()
    seconds = recorded["seconds"]
    slow = set(seconds) - set(chosen(seconds, lines_of_tests(data), BUDGET_SECONDS, SHORT_SECONDS))
    found = {"runtime": by_file(recorded["runtime"], seconds), "slow": by_file(slow, seconds)}
    LONG_TESTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
