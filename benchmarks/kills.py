"""`convert` and `compress` killed at random moments, 200 times: each file is the old one or the new one.

Half of the runs are killed at any moment, half while a file is being written (see tests/robustness/killing.py).
"""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from absl import app, flags
from common import REPOSITORY, Goal, at_least, at_most, print_goals, write_results

FLAGS = flags.FLAGS
flags.DEFINE_integer("convert", 100, "Runs of `convert`.")
flags.DEFINE_integer("compress", 100, "Runs of `compress`.")
flags.DEFINE_integer("seed", 0, "Seed of the moments.")
flags.DEFINE_string("out", "", "Folder for kills.json; benchmarks/results by default.")

SHARED = REPOSITORY / "tests" / "robustness" / "killing.py"


def run(converts: int, compresses: int, seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One entry for each run, and what was found of the temporary files at the end."""
    # The code beside the benchmarks is what is killed, whatever is installed.
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(SHARED), str(converts), str(compresses), str(seed)]
    entries = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        for line in process.stdout or ():
            entries.append(json.loads(line))
            if len(entries) % 20 == 0:
                print(len(entries), flush=True)
    if process.returncode:
        raise RuntimeError(f"Expected the process that is killed again and again to end well: {process.returncode}")
    return entries[:-1], entries[-1]


def row(command: str, entries: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Counts for one command."""
    killed = [e for e in entries if not e["finished"]]
    states = collections.Counter(f"{name}: {state}" for e in entries for name, state in e["files"].items())
    return {
        "command": command,
        "runs": len(entries),
        "killed": len(killed),
        "killed_while_writing": sum(e["moment"] == "writing" for e in killed),
        "with_a_temporary_file_left": sum(e["leftovers"] > 0 for e in entries),
        "files": dict(sorted(states.items())),
        "half_written": [e for e in entries if not e["whole"]],
        "seconds_of_a_whole_run": round(seconds, 2),
    }


def goals(rows: list[dict[str, Any]], end: dict[str, Any]) -> list[Goal]:
    return [
        at_most("runs that left a file neither old nor new", sum(len(r["half_written"]) for r in rows), 0),
        at_least("runs", sum(r["runs"] for r in rows), FLAGS.convert + FLAGS.compress),
        at_most("temporary files left after the next write, an hour later", end["leftovers_after_cleaning"], 0),
    ]


def main(_: list[str]) -> None:
    began = time.monotonic()
    entries, end = run(FLAGS.convert, FLAGS.compress, FLAGS.seed)
    rows = [
        row(name, [e for e in entries if e["command"] == name], end["seconds"][name])
        for name in ("convert", "compress")
    ]
    settings = {"convert": FLAGS.convert, "compress": FLAGS.compress, "temporary_files_left": end["leftovers"]}
    settings["seconds"] = round(time.monotonic() - began, 1)
    directory = {"directory": Path(FLAGS.out)} if FLAGS.out else {}
    found = goals(rows, end)
    write_results("kills", rows, found, seeds=[FLAGS.seed], settings=settings, **directory)
    print_goals(found)


if __name__ == "__main__":
    app.run(main)
