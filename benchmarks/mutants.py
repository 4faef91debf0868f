"""Small faults planted in the package, one at a time: do the module's own tests notice?

A fault (`mutations.py`) is planted in a line that the tests reach, chosen at random. What runs is the module's own
test file, the conformance tests of its kind and its doctests, up to the first failure, for at most a minute of
processor time.
Those that nothing notices are looked at by hand: a fault that changes nothing anybody can see has its reason in
`mutants_explained.json`; any other is a missing test.

    python benchmarks/mutants.py --count=200
"""

from __future__ import annotations

import ast
import difflib
import gc
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

# What every child needs, once: the package itself must not be imported in this process.
import ai_edge_litert.interpreter  # noqa: E402, F401
import hypothesis  # noqa: E402, F401
import keras  # noqa: E402, F401
import mutants_run  # noqa: E402
import scipy.stats  # noqa: E402, F401
import sklearn.cluster  # noqa: E402, F401
import tensorflow  # noqa: E402, F401
from absl import app, flags  # noqa: E402
from mutants_run import REPOSITORY  # noqa: E402
from mutants_tests import own_tests  # noqa: E402
from mutations import Mutation, faults, is_fault  # noqa: E402

FLAGS = flags.FLAGS
PACKAGES = ("core", "pruning", "clustering", "quantizers", "convert", "structured", "runtime")
flags.DEFINE_integer("count", 200, "Faults to plant, over all packages.")
flags.DEFINE_list("packages", list(PACKAGES), "Packages to plant them in.")
flags.DEFINE_integer("seed", 0, "Seed of the choice.")
flags.DEFINE_float("seconds", 60, "Processor time for each fault.")
flags.DEFINE_float("stop_after", 0, "Minutes after which no other fault is planted; 0: never.")
flags.DEFINE_list("again", [], "Faults to plant again: KEY, KEY@PART of the names of tests to try first, `survivors`.")
flags.DEFINE_bool("check", True, "Run the tests that noticed a fault without any, too.")
flags.DEFINE_string("work", "/tmp/keras_compress_mutants", "Folder of what is finished already.")
flags.DEFINE_string("out", "", "Folder for mutants.json; benchmarks/results by default.")
EXPLAINED = Path(__file__).with_name("mutants_explained.json")
# Words for people, and bars.
NOT_PLANTED = ("core/progress.py", "core/printable.py", "core/quiet.py", "convert/native_log.py")
# These run in a process of their own, where nobody traces lines.
UNTRACED = ("runtime/worker.py", "runtime/engine.py", "runtime/engine_litert.py", "runtime/engine_tflm.py")
LEAST_CAUGHT = 0.92
# Tests in one process, when they are run without a fault.
CHECKED = 10


def files_of(package: str) -> list[str]:
    found = sorted((REPOSITORY / "keras_compress" / package).rglob("*.py"))
    paths = [str(path.relative_to(REPOSITORY)) for path in found if path.name != "__init__.py"]
    return [path for path in paths if not path.endswith(NOT_PLANTED)]


def shuffled(package: str) -> Iterator[tuple[str, Mutation]]:
    """Faults of a package in the order of the seed: of every kind as often as of any other, one for each line."""

    def place(each: tuple[str, Mutation]) -> str:
        return hashlib.sha256(f"{FLAGS.seed} {each[1].key}".encode()).hexdigest()

    kinds: dict[str, list[tuple[str, Mutation]]] = {}
    every = [(path, fault) for path in files_of(package) for fault in faults((REPOSITORY / path).read_text(), path)]
    for each in sorted(every, key=place):
        kinds.setdefault(each[1].kind.split()[0], []).append(each)
    taken = set()
    for turn in range(max(map(len, kinds.values()))):
        for kind in sorted(kinds):
            for path, fault in kinds[kind][turn : turn + 1]:
                line = (path, fault.lines)
                if line not in taken:
                    taken.add(line)
                    yield path, fault


class Work:
    """What was tried, in a file, so that an interrupted run goes on."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path = folder, folder / "tried.json"
        self.rows: dict[str, dict[str, Any]] = json.loads(self.path.read_text()) if self.path.is_file() else {}

    def add(self, row: dict[str, Any]) -> None:
        self.rows[row["key"]] = row
        self.path.write_text(json.dumps(self.rows, indent=1))

    def plant(self, path: str, fault: Mutation) -> dict[str, Any] | None:
        """The row of a fault; `None` for one that no test reaches, or that is none."""
        source = (REPOSITORY / path).read_text()
        if not is_fault(fault, source):
            return None
        began, spent = time.monotonic(), _processor_seconds()
        found = mutants_run.try_fault(
            path,
            fault.apply(source, mutants_run.MARKING),
            own_tests(path),
            {node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef | ast.FunctionDef)},
            [*Path(path).stem.split("_"), *fault.scope.split("."), *fault.scope.strip("_").split("_")],
            FLAGS.seconds,
            self.folder / f"{fault.key}.log",
            dict(each.split("@") for each in FLAGS.again if "@" in each).get(fault.key, ""),
        )
        return {
            "key": fault.key,
            "package": path.split("/")[1],
            "file": path,
            "line": fault.start[0],
            "scope": fault.scope,
            "kind": fault.kind,
            "diff": _difference(source, fault.apply(source)),
            **_outcome(found, may_be_traced=fault.local and not path.endswith(UNTRACED)),
            "seconds": round(time.monotonic() - began, 1),
            "processor_seconds": round(_processor_seconds() - spent, 1),
        }

    def check(self, end: float) -> tuple[dict[str, str], int]:
        """Tests that noticed a fault and fail without one too, which must be none, and how many were not run by `end`.

        Those that passed are not run again.
        """
        named = {row["by"].rpartition(" (")[0] for row in self.rows.values() if row["by"].endswith("(call)")}
        kept = self.folder / "passed_without_fault.json"
        passed = set(json.loads(kept.read_text())) if kept.is_file() else set()
        # Names of doctests depend on the folder of the package.
        left = sorted(test for test in named - passed if test.startswith("tests/"))
        failed: dict[str, str] = {}
        while left and time.monotonic() < end:
            tests, left = left[:CHECKED], left[CHECKED:]
            found = mutants_run.failing_without_fault(tests, 60 * CHECKED, self.folder / "without_fault.log")
            failed |= found
            passed |= set(tests) - {name.rpartition(" (")[0] for name in found}
            kept.write_text(json.dumps(sorted(passed), indent=1))
        return failed, len(left)


def _processor_seconds() -> float:
    """Of children that ended."""
    times = os.times()
    return times.children_user + times.children_system


def _difference(before: str, after: str) -> list[str]:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def _outcome(found: dict[str, Any] | None, may_be_traced: bool) -> dict[str, Any]:
    if found is None:
        return {"caught": False, "by": "", "message": "the time was up", "reached": True}
    reached = found["reached"] or not may_be_traced or bool(found["failed"])
    for name, message in found["failed"].items():
        return {"caught": True, "by": name, "message": message, "reached": reached}
    if found["status"] != 0:
        return {"caught": True, "by": "pytest", "message": f"exit status {found['status']}", "reached": reached}
    return {"caught": False, "by": "", "message": "", "reached": reached}


def shares() -> dict[str, int]:
    """Faults for each package: by the root of its lines, so that small packages have some too."""
    roots = {
        package: sum((REPOSITORY / path).read_text().count("\n") for path in files_of(package)) ** 0.5
        for package in PACKAGES
    }
    return {package: round(FLAGS.count * root / sum(roots.values())) for package, root in roots.items()}


def chosen(work: Work) -> Iterator[tuple[str, Mutation]]:
    """What is to be planted now, the packages in turns."""
    if FLAGS.again:
        keys = {each.split("@")[0] for each in FLAGS.again}
        if "survivors" in keys:
            keys |= {key for key, row in work.rows.items() if not row["caught"]} - set(explained())
        for package in PACKAGES:
            yield from ((path, fault) for path, fault in _all_of(package) if fault.key in keys)
        return
    left = {package: count for package, count in shares().items() if package in FLAGS.packages}
    for row in work.rows.values():
        # A fault in a line that no test reaches counts for nothing.
        left[row["package"]] = left.get(row["package"], 0) - row["reached"]
    waiting = {package: shuffled(package) for package in left}
    while any(count > 0 for count in left.values()):
        for package, faults_left in waiting.items():
            for path, fault in faults_left if left[package] > 0 else ():
                if fault.key in work.rows:
                    continue
                yield path, fault
                if work.rows.get(fault.key, {}).get("reached"):
                    left[package] -= 1
                    break
            else:
                left[package] = 0


def _all_of(package: str) -> Iterator[tuple[str, Mutation]]:
    for path in files_of(package):
        yield from ((path, fault) for fault in faults((REPOSITORY / path).read_text(), path))


def explained() -> dict[str, str]:
    found: dict[str, str] = json.loads(EXPLAINED.read_text()) if EXPLAINED.is_file() else {}
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Planted, caught, without effect and survived, by package."""
    lines = [
        "| package | planted | caught | without effect | survived | caught, of those with an effect |",
        "|" + "---|" * 6,
    ]
    for package in (*PACKAGES, "all"):
        of = [row for row in rows if package in ("all", row["package"])]
        caught = sum(row["caught"] for row in of)
        equivalent = sum(bool(row["reason"]) for row in of)
        share = f"{100 * caught / (len(of) - equivalent):.0f} %" if len(of) > equivalent else "-"
        lines.append(f"| {package} | {len(of)} | {caught} | {equivalent} | {len(of) - caught - equivalent} | {share} |")
    return "\n".join(lines)


def finish(work: Work, end: float) -> None:
    failing, not_checked = work.check(end)
    # It imports the package, which no child may find imported.
    from common import RESULTS, at_least, at_most, print_goals, write_results

    reasons = explained()
    rows = sorted(work.rows.values(), key=lambda row: (row["file"], row["line"], row["key"]))
    unreached = sum(not row["reached"] for row in rows)
    rows = [{**row, "reason": "" if row["caught"] else reasons.get(row["key"], "")} for row in rows if row["reached"]]
    with_effect = [row for row in rows if not row["reason"]]
    caught = sum(row["caught"] for row in with_effect) / max(1, len(with_effect))
    goals = [at_least("share of the faults that tests notice", caught, LEAST_CAUGHT)]
    goals.append(at_most("tests that noticed a fault and fail without one", len(failing), 0))
    settings = {
        "seconds": FLAGS.seconds,
        "unreached": unreached,
        "not_run_without_fault": not_checked,
        "failing_without_fault": failing,
        "table": table(rows).splitlines(),
    }
    directory = Path(FLAGS.out) if FLAGS.out else RESULTS
    write_results("mutants", rows, goals, seeds=[FLAGS.seed], settings=settings, directory=directory)
    print(table(rows))
    print_goals(goals)


def main(_: list[str]) -> None:
    work = Work(Path(FLAGS.work))
    # Children collect garbage several times, and need not look at what is imported here.
    gc.freeze()
    end = time.monotonic() + (60 * FLAGS.stop_after or float("inf"))
    for path, fault in chosen(work):
        if time.monotonic() > end:
            break
        row = work.plant(path, fault)
        if row is None:
            continue
        work.add(row)
        print(
            f"{row['seconds']:6.1f} s  {'caught' if row['caught'] else 'SURVIVED'}  {path}:{row['line']} {fault.kind}"
        )
        print("\n".join(f"          {line}" for line in (*row["diff"], row["by"])), flush=True)
    finish(work, float("inf") if FLAGS.check else 0.0)


if __name__ == "__main__":
    app.run(main)
