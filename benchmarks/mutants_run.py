"""Pytest on a package with a fault in it, in a process forked from one that has TensorFlow imported already.

The faulty package is a folder of links to the files of the checkout, with one file of its own: nothing in the checkout
is edited, and processes that the tests start see the fault too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from _pytest.doctest import DoctestItem

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = "keras_compress"
# Wall time over processor time that a busy machine may take.
PATIENCE = 5


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
    """What became of the tests; those that reach the fault, quickest first, go before the others."""

    def __init__(self, first: Sequence[str] = ()) -> None:
        self.first = {name: i for i, name in enumerate(first)}
        self.failed: dict[str, str] = {}
        self.passed = 0

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        # Doctests take no time.
        items.sort(
            key=lambda item: -1 if isinstance(item, DoctestItem) else self.first.get(item.nodeid, len(self.first))
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed[f"{report.nodeid} ({report.when})"] = _message(report)
        self.passed += report.passed and report.when == "call"

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed[f"{report.nodeid} (import)"] = _message(report)


def _message(report: Any) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return (crash.message if crash else str(report.longrepr)[-300:]).strip()[:300]


class Lines:
    """Which lines of the package each test reaches, and how long it takes."""

    def __init__(self, repository: Path) -> None:
        self.root, self.package = str(repository) + os.sep, str(repository / PACKAGE) + os.sep
        self.tests: dict[str, dict[str, Any]] = {}
        self._reached: set[tuple[str, int]] = set()
        self._failed: set[str] = set()

    def _trace(self, frame: Any, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(self.package):
            return None
        self._reached.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line

    def _line(self, frame: Any, event: str, argument: Any) -> Any:
        if event == "line":
            self._reached.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._reached.clear()
        began = time.process_time()
        threading.settrace(self._trace)
        sys.settrace(self._trace)
        yield
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        lines: dict[str, list[int]] = {}
        for path, line in sorted(self._reached):
            lines.setdefault(path.removeprefix(self.root), []).append(line)
        seconds = round(time.process_time() - began, 3)
        self.tests[item.nodeid] = {"seconds": seconds, "lines": lines, "failed": item.nodeid in self._failed}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.add(report.nodeid)


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
    settings = ["-q", "-p", "no:cacheprovider", "-c", str(REPOSITORY / "setup.cfg")]
    return int(pytest.main([*settings, *arguments], plugins=[plugin]))


def try_fault(path: str, source: str, arguments: Sequence[str], first: Sequence[str], seconds: float, log: Path) -> Any:
    """`{"failed", "passed"}` of the tests up to the first that fails, `None` if the time was up before."""
    with faulty_package(path, source) as folder:

        def work() -> dict[str, Any]:
            reporter = Reporter(first)
            status = run_tests(folder, ["-x", *arguments], reporter)
            return {"failed": reporter.failed, "passed": reporter.passed, "status": status}

        return forked(work, seconds, log)


def lines_of(test: str, path: str, seconds: float, work_folder: Path) -> dict[str, dict[str, Any]]:
    """For each test of a file or a module's doctests: `{"seconds", "lines": {path: [line, ...]}, "failed"}`.

    Kept in a file, which is of use as long as the tests and the package's file `path` stay as they are.

    Raises:
        RuntimeError: If the tests cannot be run without any fault.
    """
    kept = work_folder / f"lines_{test.replace('/', '.')}.json"
    digests = {each: _digest(each) for each in (test, path)}
    if kept.is_file():
        loaded: dict[str, Any] = json.loads(kept.read_text())
        if loaded["digests"].items() >= digests.items():
            return loaded["tests"]
    tests = _traced(test, seconds, work_folder)
    everything = [str(each.relative_to(REPOSITORY)) for each in (REPOSITORY / PACKAGE).rglob("*.py")]
    kept.write_text(json.dumps({"digests": {each: _digest(each) for each in (test, *everything)}, "tests": tests}))
    return tests


def _traced(test: str, seconds: float, work_folder: Path) -> dict[str, dict[str, Any]]:
    def work() -> dict[str, Any]:
        plugin = Lines(REPOSITORY)
        status = run_tests(REPOSITORY, [test], plugin)
        return {"status": status, "tests": plugin.tests}

    log = work_folder / f"without_fault_{test.replace('/', '.')}.log"
    found = forked(work, seconds, log)
    if found is None or found["status"] not in (0, 1, 5):  # 5: there are none, as in a module without doctests
        raise RuntimeError(f"Expected {test} to run without any fault. Received: {log}")
    tests: dict[str, dict[str, Any]] = found["tests"]
    return tests


def _digest(path: str) -> str:
    at = REPOSITORY / path
    return hashlib.sha256(at.read_bytes()).hexdigest()[:12] if at.is_file() else ""
