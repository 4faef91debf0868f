"""Pytest on a package with a fault in it, in a process forked from one that has TensorFlow imported already.

The faulty package is a folder of links to the files of the checkout, with one file of its own: nothing in the checkout
is edited, and processes that the tests start see the fault too.
"""

from __future__ import annotations

import builtins
import contextlib
import inspect
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
# A line with this call is put before the faulty statement; in processes that tests start it does nothing.
MARK = "_fault_is_reached"
MARKING = f"getattr(__import__('builtins'), {MARK!r}, int)()"
# Wall time over processor time that a busy machine may take.
PATIENCE = 6
# Processor time that no test needs.
HANGS = 15


@contextlib.contextmanager
def faulty_package(path: str, source: str) -> Iterator[Path]:
    """A folder for `sys.path` with the package in which `path` reads like `source`."""
    folder = Path(tempfile.mkdtemp(prefix="mutant-"))
    try:
        at = folder
        for part in Path(path).parts[:-1]:
            at = at / part
            at.mkdir()
            for beside in (REPOSITORY / at.relative_to(folder)).iterdir():
                if beside.name != "__pycache__":
                    (at / beside.name).symlink_to(beside)
            # The next part of the path is a folder of its own, and the file too.
            nearer = at / Path(path).parts[len(at.relative_to(folder).parts)]
            nearer.unlink()
        (folder / path).write_text(source)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Reporter:
    """What became of the tests, and whether any reached the fault.

    Args:
        names: Classes and functions of the faulty module. Of conformance tests over all, those of others are left out.
        words: Tests that have more of these words in their source come first.
        first: A part of the names of tests that come before those.
        running: File for the test that runs, and the processor time at which it began.
    """

    def __init__(
        self,
        names: set[str] | None = None,
        words: Sequence[str] = (),
        running: Path = Path(os.devnull),
        first: str = "",
    ) -> None:
        self.names, self.words = names or set(), {word.lower() for word in words}
        self.failed: dict[str, str] = {}
        self.reached = False
        self.running = running
        self.first = first
        setattr(builtins, MARK, self._mark)

    def _mark(self) -> None:
        self.reached = True

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        named = {item.nodeid for item in items if self._class(item) in self.names}
        if named:
            items[:] = [item for item in items if item.nodeid in named or not self._is_of_another(item)]
        items.sort(key=self._words_in, reverse=True)

    def _words_in(self, item: pytest.Item) -> float:
        function = getattr(item, "function", None)
        if function is None:  # Doctests take no time.
            return math.inf
        text = (item.nodeid + inspect.getsource(function)).lower()
        return sum(word in text for word in self.words) + 100 * (bool(self.first) and self.first in item.nodeid)

    def _is_of_another(self, item: pytest.Item) -> bool:
        return "conformance" in item.nodeid and bool(self._class(item))

    def _class(self, item: pytest.Item) -> str:
        return item.name.partition("[")[2].partition("-")[0].partition("]")[0]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.running.write_text(json.dumps([nodeid, time.process_time()]))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed[f"{report.nodeid} ({report.when})"] = _message(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed[f"{report.nodeid} (import)"] = _message(report)


def _message(report: Any) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return (crash.message if crash else str(report.longrepr)[-300:]).strip()[:300]


def forked(work: Callable[[], Any], seconds: float, log: Path) -> Any:
    """What `work()` returned in a child process; `None` if that took longer than so much processor time.

    Raises:
        RuntimeError: If the child ended by itself without an answer: its exit status, and where its output is.
    """
    answer = log.with_suffix(".answer")
    answer.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _in_child(work, log, answer)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    end = time.monotonic() + PATIENCE * seconds
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if _processor_seconds(child) > seconds or time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.05)
    if not answer.is_file():
        raise RuntimeError(f"The child ended without an answer; its output is in {log}")
    return json.loads(answer.read_text())


def _in_child(work: Callable[[], Any], log: Path, answer: Path) -> None:
    os.setpgid(0, 0)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    answer.write_text(json.dumps(work()))
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def _processor_seconds(process: int) -> float:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        # User and system time, its own and of children that ended.
        return sum(int(fields[i]) for i in range(11, 15)) / os.sysconf("SC_CLK_TCK")
    return 0.0


def run_tests(folder: Path, arguments: Sequence[str], plugin: object) -> int:
    """`pytest.main` in this process, with the package of `folder`."""
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = str(folder)
    os.chdir(REPOSITORY)
    settings = ["-q", "--tb=line", "-p", "no:cacheprovider", "-c", str(REPOSITORY / "setup.cfg")]
    # Hypothesis is imported before the fork, as its import takes a second.
    settings += ["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]
    return int(pytest.main([*settings, *arguments], plugins=[plugin]))


def try_fault(
    path: str,
    source: str,
    tests: Sequence[str],
    names: set[str],
    words: Sequence[str],
    seconds: float,
    log: Path,
    first: str = "",
) -> Any:
    """What `Reporter` found up to the first test that fails, `None` if the time was up before.

    A test that takes more than `HANGS` seconds has failed: none does without a fault.
    """
    running = log.with_suffix(".running")
    running.write_text("[]")
    with faulty_package(path, source) as folder:

        def work() -> dict[str, Any]:
            reporter = Reporter(names, words, running, first)
            status = run_tests(folder, ["-x", *tests], reporter)
            return {"failed": reporter.failed, "status": status, "reached": reporter.reached}

        found = forked(work, seconds, log)
    test, began = json.loads(running.read_text() or "[]") or ("", seconds)
    if found is None and seconds - began > HANGS:
        return {"failed": {f"{test} (hangs)": ""}, "status": 1, "reached": True}
    return found


def failing_without_fault(tests: Sequence[str], seconds: float, log: Path) -> dict[str, str]:
    """Of these tests those that fail on the package as it is, with their messages."""

    def work() -> dict[str, str]:
        reporter = Reporter()
        run_tests(REPOSITORY, tests, reporter)
        return reporter.failed

    found: dict[str, str] | None = forked(work, seconds, log)
    if found is None:
        raise RuntimeError(f"Expected the tests to end within {seconds} s. Received: {log}")
    return found
