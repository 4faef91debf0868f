"""Examines random graphs for `graphs.py`, in a process of its own: TensorFlow's converter and runtimes can crash.

python benchmarks/graphs_child.py FOLDER SEED TRIAL:NUMBER...

For each graph `FOLDER/TRIAL_NUMBER.json` says what was found; `FOLDER/begun` names the graph that is being examined.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import REPOSITORY

from keras_compress.convert.files import write_atomic

sys.path.insert(0, str(REPOSITORY / "tests"))

from tests_graph_known import known
from tests_graph_oracle import examine
from tests_graph_strategies import graph
from tests_graph_trials import TRIALS
from tests_graphs import Description, code, names_of, smallest

# Conversions that may be spent on making one failing graph smaller.
SHRINK_TRIALS = 40
# Graphs of a seed have numbers below this.
MOST_GRAPHS = 1_000_000


def result_of(trial: str, number: int, seed: int) -> dict[str, Any]:
    """One graph: what was found, its smallest form where that is a fault, and the reason where it is known."""
    description = graph(seed * MOST_GRAPHS + number)
    finding = TRIALS[trial](description)
    found = {"trial": trial, "number": number, "layers": names_of(description), **asdict(finding)}
    if finding.sound:
        return found
    small = smallest(description, lambda smaller: _alike(trial, smaller, finding.status, finding.kind), SHRINK_TRIALS)
    if small != description and finding.status == "loss":
        found["kind"] = f"loss: {' '.join(names_of(small))}"
    reason = known(found["kind"], small)
    return {**found, "example": code(small), "known": reason}


def _alike(trial: str, description: Description, status: str, kind: str) -> bool:
    """Whether a smaller graph fails as the first did; a loss is one wherever it is."""
    finding = examine(description, seeds=3) if trial == "convert" else TRIALS[trial](description)
    return finding.status == status and (status in ("loss", "float") or finding.kind == kind)


def main(folder: Path, seed: int, wanted: list[str]) -> None:
    for entry in wanted:
        trial, number = entry.split(":")
        write_atomic(folder / "begun", entry.encode())
        found = result_of(trial, int(number), seed)
        write_atomic(folder / f"{trial}_{number}.json", json.dumps(found).encode())
        print(entry, found["status"], *found["layers"], "|", found["kind"], flush=True)


if __name__ == "__main__":
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
