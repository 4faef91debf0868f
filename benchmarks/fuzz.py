"""Broken and hostile files against `inspect`, `measure` and `verify`: 2,000 of them, and how each call ended.

The files are those of tests/robustness/mutations.py; the test of 300 runs the same code. The calls are made in one
process after another ("the caller"), as a user's program would make them; this one watches that the caller lives,
answers in time and does not grow.
"""

from __future__ import annotations

import collections
import json
import os
import queue
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

from absl import app, flags
from common import REPOSITORY, Goal, at_least, at_most, print_goals, write_results

FLAGS = flags.FLAGS
flags.DEFINE_integer("tflite", 1150, "Broken .tflite files.")
flags.DEFINE_integer("recipe", 450, "Broken recipes.")
flags.DEFINE_integer("keras", 400, "Broken .keras files.")
flags.DEFINE_integer("seed", 0, "Seed of the mutations.")
flags.DEFINE_integer("first", 0, "Number of the first file of each kind.")
flags.DEFINE_string("out", "", "Folder for fuzz.json; benchmarks/results by default.")
flags.DEFINE_list("caller", [], "Internal: kind, first, last and seed of the process that makes the calls.")

# The caller may take this long for one call, and grow by this much over what it needs for an intact file.
SILENCE_S = 120.0
GROWTH_BYTES = 2_000_000_000
CHILD_BYTES = 2_200_000_000


def caller(kind: str, first: int, last: int, seed: int) -> None:
    """Makes the calls on files first to last - 1 and writes a line of JSON before and after each file."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.path.insert(0, str(REPOSITORY / "tests"))
    from robustness.bed import Bed

    with tempfile.TemporaryDirectory() as folder:
        bed = Bed(Path(folder))
        for number in range(first, last):
            case = bed.case(kind, seed, number)
            print(json.dumps({"begins": number, "what": case.what}), file=answers)
            before = _peak(resource.RUSAGE_SELF)
            verdicts = [vars(verdict) for verdict in bed.run(case, number)]
            ended = {
                "ended": number,
                "what": case.what,
                "reaches_runtime": case.reaches_runtime,
                "verdicts": verdicts,
                "grown_bytes": _peak(resource.RUSAGE_SELF) - before,
                "child_bytes": _peak(resource.RUSAGE_CHILDREN),
                "slipped": sorted(p.name for p in Path(folder).parent.glob("slipped")),
            }
            print(json.dumps(ended), file=answers)


def _peak(who: int) -> int:
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Watch:
    """Runs callers over a range of files and collects what they say; a caller that dies or hangs is replaced."""

    def __init__(self, kind: str, seed: int) -> None:
        self.kind, self.seed = kind, seed
        self.ended: list[dict[str, Any]] = []
        self.faults: list[dict[str, Any]] = []

    def run(self, first: int, last: int) -> None:
        while first < last:
            first = self._one_caller(first, last)

    def _one_caller(self, first: int, last: int) -> int:
        """Returns the number of the file to go on with."""
        command = [sys.executable, __file__, f"--caller={self.kind},{first},{last},{self.seed}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_read, args=(process, lines), daemon=True).start()
        current: dict[str, Any] | None = None
        while True:
            try:
                line = lines.get(timeout=SILENCE_S)
            except queue.Empty:
                process.kill()
                return self._lost(current, f"the caller hung for {SILENCE_S:g} s", first)
            if line is None:
                code = process.wait()
                if current is None and code == 0:
                    return last
                return self._lost(current, f"the caller died, exit code {code}", first)
            said = json.loads(line)
            current = said if "begins" in said else None
            if "ended" in said:
                self._note(said)

    def _note(self, said: dict[str, Any]) -> None:
        self.ended.append(said)
        found = [f"{v['call']}: {v['fault']}" for v in said["verdicts"] if v["fault"]]
        # The first file pays for what is loaded once.
        if said["grown_bytes"] > GROWTH_BYTES:
            found.append(f"the caller grew by {said['grown_bytes']:,} bytes")
        if said["child_bytes"] > CHILD_BYTES:
            found.append(f"a child took {said['child_bytes']:,} bytes")
        if said["slipped"]:
            found.append("a file was written outside the folder")
        for fault in found:
            self._fault(said["ended"], said["what"], fault)
        if said["ended"] % 50 == 0:
            print(f"{self.kind} {said['ended']}", flush=True)

    def _fault(self, number: int, what: str, fault: str) -> None:
        self.faults.append({"kind": self.kind, "number": number, "what": what, "fault": fault})
        print(f"FAULT {self.kind} {number} ({what}): {fault}", flush=True)

    def _lost(self, current: dict[str, Any] | None, fault: str, first: int) -> int:
        if current is None:
            raise RuntimeError(f"Expected a caller that works on intact files. Received: {fault}")
        self._fault(current["begins"], current["what"], fault)
        return int(current["begins"]) + 1


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    for line in process.stdout or ():
        lines.put(line)
    lines.put(None)


def row(watch: Watch, seconds: float) -> dict[str, Any]:
    """Counts of one kind of file."""
    outcomes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    slowest: dict[str, float] = collections.defaultdict(float)
    for entry in watch.ended:
        for verdict in entry["verdicts"]:
            outcomes[verdict["call"]][verdict["outcome"]] += 1
            slowest[verdict["call"]] = max(slowest[verdict["call"]], verdict["seconds"])
    return {
        "kind": watch.kind,
        "files": len(watch.ended),
        "reach_a_runtime": sum(entry["reaches_runtime"] for entry in watch.ended),
        "seconds": round(seconds, 1),
        "outcomes": {call: dict(sorted(counts.items())) for call, counts in sorted(outcomes.items())},
        "slowest_call_seconds": {call: round(value, 2) for call, value in sorted(slowest.items())},
        "caller_grew_by_at_most_bytes": max((e["grown_bytes"] for e in watch.ended[1:]), default=0),
        "largest_child_bytes": max((e["child_bytes"] for e in watch.ended), default=0),
        "faults": watch.faults,
    }


def goals(rows: list[dict[str, Any]]) -> list[Goal]:
    files, faults = sum(r["files"] for r in rows), sum(len(r["faults"]) for r in rows)
    share = sum(r["reach_a_runtime"] for r in rows) / max(files, 1)
    return [
        at_most("crashes, hangs, errors that are not ours, limits passed", faults, 0),
        at_least("share of files with a valid header", share, 0.5),
        at_least("files", files, FLAGS.tflite + FLAGS.recipe + FLAGS.keras),
    ]


def main(_: list[str]) -> None:
    if FLAGS.caller:
        kind, *numbers = FLAGS.caller
        caller(kind, *map(int, numbers))
        return
    rows = []
    for kind in ("recipe", "keras", "tflite"):
        watch, began = Watch(kind, FLAGS.seed), time.monotonic()
        watch.run(FLAGS.first, FLAGS.first + FLAGS[kind].value)
        rows.append(row(watch, time.monotonic() - began))
        print(json.dumps(rows[-1]["outcomes"], indent=1), flush=True)
    settings = {"files": {kind: FLAGS[kind].value for kind in ("tflite", "recipe", "keras")}, "first": FLAGS.first}
    directory = {"directory": Path(FLAGS.out)} if FLAGS.out else {}
    found = goals(rows)
    write_results("fuzz", rows, found, seeds=[FLAGS.seed], settings=settings, **directory)
    print_goals(found)


if __name__ == "__main__":
    app.run(main)
