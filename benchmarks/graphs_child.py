"""Examines random graphs for `graphs.py`, in a process of its own: TensorFlow's converter and runtimes can crash.

python benchmarks/graphs_child.py FOLDER SEED SHRINK TRIAL:NUMBER...

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
from tests_graph_oracle import Finding, examine
from tests_graph_strategies import graph
from tests_graph_trials import TRIALS
from tests_graphs import Description, code, names_of, smallest

# Graphs of a seed have numbers below this.
MOST_GRAPHS = 1_000_000


def result_of(trial: str, number: int, seed: int, shrink: int) -> dict[str, Any]:
    """One graph: what was found, its smallest form where that is a fault, and the reason where it is known."""
    description = graph(seed * MOST_GRAPHS + number)
    finding = TRIALS[trial](description)
    found = {"trial": trial, "number": number, "layers": names_of(description), **asdict(finding)}
    if finding.sound:
        return found
    reason = known(finding.kind, description)
    if reason:
        return {**found, "example": code(description), "known": reason}
    small = smallest(description, lambda smaller: _alike(trial, smaller, finding), shrink)
    if finding.status in ("loss", "float"):
        # What the smallest graph is made of is what makes losses alike.
        found["kind"] = f"{finding.kind.split(':')[0]}: {' '.join(names_of(small))}"
    return {**found, "example": code(small), "known": known(found["kind"], small)}


def _alike(trial: str, description: Description, first: Finding) -> bool:
    """Whether a smaller graph fails as the first did; a loss is one wherever it is."""
    if trial == "convert":
        lost = first.status in ("loss", "float")
        finding = examine(description, compare=lost, verify=first.status == "verify", seeds=3)
    else:
        finding = TRIALS[trial](description)
    return finding.status == first.status and (first.status in ("loss", "float") or finding.kind == first.kind)


def main(folder: Path, seed: int, shrink: int, wanted: list[str]) -> None:
    for entry in wanted:
        trial, number = entry.split(":")
        write_atomic(folder / "begun", entry.encode())
        found = result_of(trial, int(number), seed, shrink)
        write_atomic(folder / f"{trial}_{number}.json", json.dumps(found).encode())
        print(entry, found["status"], *found["layers"], "|", found["kind"], flush=True)


if __name__ == "__main__":
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
