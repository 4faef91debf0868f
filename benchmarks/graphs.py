"""Random graphs of 3 to 8 layers: does each convert as well as TensorFlow's own quantization, or is it refused by name?

python benchmarks/graphs.py                                 # 1,000 graphs, and 100 each through the chain and surgery
python benchmarks/graphs.py --count=50 --chain=0 --surgery=0 --seed=7 --output=/tmp/graphs

What was interrupted goes on where it stopped. In `tests/`, `tests_graph_strategies.py` draws the graphs and
`tests_graph_oracle.py` judges them.
"""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from absl import app, flags
from common import RESULTS, Goal, at_most, print_goals, write_results

from keras_compress.convert.files import write_atomic

_COUNT = flags.DEFINE_integer("count", 1000, "Graphs that are converted.")
_CHAIN = flags.DEFINE_integer("chain", 100, "Graphs that go through prune, cluster, quantize, save, load, convert.")
_SURGERY = flags.DEFINE_integer("surgery", 100, "Graphs whose channels are masked and cut.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the graphs.")
_SHRINK = flags.DEFINE_integer("shrink", 40, "Conversions spent on making a failing graph smaller.")
_WORKERS = flags.DEFINE_integer("workers", 1, "Processes at a time.")
_OUTPUT = flags.DEFINE_string("output", str(RESULTS), "Folder of graphs.json and graphs.md.")
_QUICK = flags.DEFINE_bool("quick", False, "Three graphs of each kind of trial; results stay in --work.")
_WORK = flags.DEFINE_string("work", "/tmp/keras_compress_graphs", "Folder of what is finished already.")
HERE = Path(__file__).resolve().parent
# A child begins anew after so many graphs, as TensorFlow forgets nothing; one graph, shrunk, takes minutes at most.
BLOCK, SILENCE_S = 25, 900.0
MOST_REFUSED, MOST_GRAPHS = 0.03, 1_000_000
SOUND = ("ok", "refused", "ill", "empty")
Row = dict[str, Any]


def wanted() -> list[str]:
    """`TRIAL:NUMBER` of all graphs."""
    counts = {"convert": _COUNT.value, "chain": _CHAIN.value, "surgery": _SURGERY.value}
    most = 3 if _QUICK.value else MOST_GRAPHS
    return [f"{trial}:{number}" for trial, count in counts.items() for number in range(min(count, most))]


def path_of(entry: str, folder: Path) -> Path:
    return folder / f"{entry.replace(':', '_')}.json"


class Worker:
    """A child that examines a block of graphs; what it dies or hangs of is a finding."""

    def __init__(self, folder: Path, entries: list[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.entries = folder, entries
        self._begun = folder / "begun"
        self._begun.unlink(missing_ok=True)
        self._since = time.monotonic()
        settings = (_SEED.value, _SHRINK.value)
        with (folder / "log").open("ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, str(HERE / "graphs_child.py"), str(folder), *map(str, settings), *entries],
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ended(self) -> bool:
        """Whether the child is gone; the graph it was lost on has a result then."""
        code = self._child.poll()
        if code is None and self._silent_s() < SILENCE_S:
            return False
        if code is None:
            self.kill()
            code = "none: it hung"
        if code != 0:
            self._lost(f"the process ended with exit code {code}")
        return True

    def kill(self) -> None:
        """End the child with all that it started."""
        os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()

    def _silent_s(self) -> float:
        if self._begun.is_file():
            return time.time() - self._begun.stat().st_mtime
        return time.monotonic() - self._since

    def _lost(self, problem: str) -> None:
        if not self._begun.is_file():
            raise RuntimeError(f"Expected a child that examines graphs. Received: {problem}; see {self.folder / 'log'}")
        entry = self._begun.read_text()
        trial, number = entry.split(":")
        kind = f"crash: {problem}"
        row = {"trial": trial, "number": int(number), "layers": [], "status": "crash", "kind": kind, "detail": problem}
        write_atomic(path_of(entry, self.folder), json.dumps(row).encode())


def run(folder: Path) -> None:
    """Examine all graphs that have no result yet."""
    workers: list[Worker] = []
    try:
        while True:
            workers = [worker for worker in workers if not worker.ended()]
            taken = {entry for worker in workers for entry in worker.entries}
            left = [e for e in wanted() if e not in taken and not _result(e, folder).is_file()]
            if not left and not workers:
                return
            if left and len(workers) < _WORKERS.value:
                numbers = [n for n in range(_WORKERS.value) if folder / f"worker{n}" not in {w.folder for w in workers}]
                workers.append(Worker(folder / f"worker{numbers[0]}", left[:BLOCK]))
            else:
                time.sleep(0.5)
    finally:
        for worker in workers:
            worker.kill()


def _result(entry: str, folder: Path) -> Path:
    """Where a graph's result is, whichever worker wrote it."""
    paths = [path_of(entry, worker) for worker in sorted(folder.glob("worker*"))]
    return next((path for path in paths if path.is_file()), path_of(entry, folder))


def kinds_of(rows: list[Row]) -> list[Row]:
    """Kinds of findings with their counts, the smallest example and the reason where they are known."""
    groups: dict[tuple[str, str, str], list[Row]] = collections.defaultdict(list)
    for row in rows:
        if row["status"] not in ("ok", "ill", "empty"):
            groups[row["trial"], row["kind"], row.get("known", "")].append(row)
    found = []
    for (trial, kind, known), members in groups.items():
        smallest = min(members, key=lambda row: len(row.get("example", "") or " " * 9999))
        example = {key: smallest.get(key, "") for key in ("detail", "example", "number")}
        found.append({"trial": trial, "kind": kind, "known": known, "count": len(members), **example})
    return sorted(found, key=lambda kind: (kind["trial"], -kind["count"], kind["kind"]))


def shares(rows: list[Row]) -> dict[str, dict[str, int]]:
    """Trial -> status -> graphs; known faults apart."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for row in rows:
        counts[row["trial"]][f"{row['status']}{', known' if row.get('known') else ''}"] += 1
    return {trial: dict(counter.most_common()) for trial, counter in counts.items()}


def goals_of(rows: list[Row]) -> list[Goal]:
    unknown = collections.Counter(row["status"] for row in rows if not row.get("known"))
    converted = [row for row in rows if row["trial"] == "convert" and row["status"] != "empty"]
    refused = sum(row["status"] == "refused" for row in converted) / max(len(converted), 1)
    return [
        at_most("internal errors and crashes, but the known ones", unknown["internal"] + unknown["crash"], 0),
        at_most("losses against TensorFlow beyond 1 dB, but the known ones", unknown["loss"] + unknown["float"], 0),
        at_most("verify beyond its bounds, but the known ones", unknown["verify"], 0),
        at_most("share of graphs that are refused by name", refused, MOST_REFUSED),
    ]


def markdown(rows: list[Row], kinds: list[Row]) -> str:
    """The tables of a run."""
    counts = ", ".join(f"{sum(counter.values())} {trial}" for trial, counter in shares(rows).items())
    lines = ["# Random graphs", "", f"Seed {_SEED.value}, the first graphs of each trial: {counts}.", ""]
    lines += ["| trial | found | graphs |", "|---|---|---|"]
    for trial, counts in shares(rows).items():
        lines += [f"| {trial} | {status} | {count} |" for status, count in counts.items()]
    lines += ["", "| trial | kind | graphs | known |", "|---|---|---|---|"]
    lines += [f"| {k['trial']} | {_cell(k['kind'])} | {k['count']} | {_cell(k['known'])} |" for k in kinds]
    lines += [
        "",
        "Graphs of which TensorFlow's file keeps more, and the Keras model rounded to 8 bits no more than ours:",
    ]
    lines += ["", "| graph | layers | dB | TensorFlow's | rounded Keras model's |", "|---|---|---|---|---|"]
    lines += [_ill(row) for row in rows if row["status"] == "ill"]
    for kind in kinds:
        lines += ["", f"## {kind['trial']}: {_cell(kind['kind'])}", "", kind["detail"][:600]]
        lines += ["", "```python", kind["example"].strip(), "```"] if kind["example"] else []
    return "\n".join(lines) + "\n"


def _ill(row: Row) -> str:
    """A line of the table of ill-conditioned graphs: the output that is farthest behind."""

    def theirs(found: dict[str, float]) -> float:
        return found.get("tensorflow", found.get("mixed", found["rounded"]))

    worst = max(row["db"], key=lambda found: theirs(found) - found["ours"])
    figures = f"{worst['ours']} | {theirs(worst)} | {worst['rounded']}"
    return f"| {row['number']} | {' '.join(row['layers'])} | {figures} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "\\<").replace("\n", " ")


def summarized(row: Row) -> Row:
    """What the results keep of a graph."""
    kept = ("trial", "number", "layers", "status", "kind", "known", "db", "notes", "seconds")
    return {key: row[key] for key in kept if row.get(key)}


def main(_: list[str]) -> None:
    folder = Path(_WORK.value) / f"seed{_SEED.value}"
    output = folder if _QUICK.value else Path(_OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    run(folder)
    rows = [json.loads(_result(entry, folder).read_text()) for entry in wanted()]
    kinds, goals = kinds_of(rows), goals_of(rows)
    settings = {"count": _COUNT.value, "chain": _CHAIN.value, "surgery": _SURGERY.value, "kinds": kinds}
    settings |= {"shares": shares(rows)}
    path = write_results(
        "graphs", [summarized(row) for row in rows], goals, seeds=[_SEED.value], settings=settings, directory=output
    )
    write_atomic(output / "graphs.md", markdown(rows, kinds).encode())
    print(markdown(rows, kinds))
    print_goals(goals)
    print(path, output / "graphs.md", sep="\n")


if __name__ == "__main__":
    app.run(main)
