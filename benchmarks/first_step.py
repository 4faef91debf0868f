"""How long one waits for training to begin: wrapping and the first step, of each method and of all three together.

python benchmarks/first_step.py --tfmot_python=PYTHON
python benchmarks/first_step.py --nets=mobilenet --modes=sgd --before=CHECKOUT
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags
from common import REPOSITORY, Goal, at_most, once, print_goals, write_results

METHODS = ("float", "prune", "cluster", "quantize", "all")
WAIT = {"prune": 2.5, "cluster": 2.5, "quantize": 2.5, "all": 4.0}
WAIT_COMPILED = {"all": 2.0}
STEADY = {"prune": 1.05, "cluster": 1.1, "quantize": 1.2, "all": 1.3}
MEMORY = 1.4
_NETS = flags.DEFINE_list("nets", ["mobilenet", "resnet20", "lstm", "transformer"], "Networks.")
_MODES = flags.DEFINE_list(
    "modes", ["sgd", "adam", "xla"], "SGD and Adam without XLA, SGD with the whole step compiled."
)
_METHODS = flags.DEFINE_list("methods", list(METHODS), "Methods; float is always measured.")
_STEADY = flags.DEFINE_bool("steady", True, "Steps in turns too.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Processes for each wait.")
_BLOCKS = flags.DEFINE_integer("blocks", 8, "Blocks of 10 steps of each method.")
_TFMOT = flags.DEFINE_string("tfmot_python", None, "Interpreter with tfmot and tf_keras.")
_BEFORE = flags.DEFINE_string("before", None, "Checkout of an earlier version, measured in turns with this one.")
_WORK = flags.DEFINE_string("work", "out/first_step", "Folder of what is measured already.")
Row = dict[str, Any]


def child(side: str, *arguments: str) -> dict[str, Any]:
    """What one fresh process has measured."""
    folder = Path(__file__).resolve().parent
    package = _BEFORE.value if side == "before" else REPOSITORY
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(package)}
    script = "first_step_tfmot.py" if side == "tfmot" else "first_step_child.py"
    command = [_TFMOT.value if side == "tfmot" else sys.executable, str(folder / script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(side, *arguments, found, file=sys.stderr, flush=True)
    return found


def sides_of(net: str, mode: str) -> list[str]:
    peers = ["tfmot"] if _TFMOT.value and net == "mobilenet" and mode == "sgd" else []
    return ["here", *(["before"] if _BEFORE.value else []), *peers]


def waits(net: str, mode: str) -> list[Row]:
    """Medians of wrapping, first step and peak memory, sides and methods in turns."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for turn in range(_ROUNDS.value):
        for method in dict.fromkeys(["float", *_METHODS.value]):
            for side in sides_of(net, mode):
                if (method == "float" and side == "before") or (method == "all" and side == "tfmot"):
                    continue
                path = Path(_WORK.value) / f"{net}-{mode}-{method}-{side}-{turn}.json"
                measured = once(path, lambda side=side, method=method: child(side, "wait", net, mode, method))
                found.setdefault((side, method), []).append(measured)
    return [
        {"net": net, "mode": mode, "side": side, "method": method, **medians(measured)}
        for (side, method), measured in found.items()
    ]


def medians(measured: Sequence[dict[str, float]]) -> dict[str, Any]:
    middle = {key: statistics.median(each[key] for each in measured) for key in measured[0]}
    each = [round(m["wrap"] + m["first_step"], 2) for m in measured]
    return {**{key: round(value, 3) for key, value in middle.items()}, "each_wait": each}


def steps(net: str, mode: str) -> list[Row]:
    methods = list(dict.fromkeys(["float", *_METHODS.value]))
    rows = []
    for side in sides_of(net, mode):
        if side == "tfmot":
            continue
        path = Path(_WORK.value) / f"{net}-{mode}-steady-{side}.json"
        measured = once(path, lambda side=side: child(side, "steady", net, mode, str(_BLOCKS.value), *methods))
        rows += [{"net": net, "mode": mode, "side": side, "method": name, **each} for name, each in measured.items()]
    return rows


def goals_of(rows: Sequence[Row]) -> list[Goal]:
    """Waits, steps and memory of this version over those of the float model."""
    goals = []
    here = [row for row in rows if row["side"] == "here"]
    floats = {(row["net"], row["mode"]): row for row in here if row["method"] == "float" and "first_step" in row}
    for row in here:
        name, method = f"{row['net']}, {row['mode']}, {row['method']}", row["method"]
        base = floats.get((row["net"], row["mode"]))
        if "ratio" in row and row["mode"] == "sgd" and method in STEADY:
            goals.append(at_most(f"{name}: step over the float step", row["ratio"], STEADY[method]))
        if "first_step" not in row or base is None or method == "float":
            continue
        bound = (WAIT_COMPILED if row["mode"] == "xla" else WAIT).get(method)
        if bound is not None:
            wait = (row["wrap"] + row["first_step"]) / base["first_step"]
            goals.append(at_most(f"{name}: wrap and first step over float's first step", wait, bound))
        memory = row["peak_megabytes"] / base["peak_megabytes"]
        goals.append(at_most(f"{name}: peak memory over float's", memory, MEMORY))
    return goals


def print_table(rows: Sequence[Row]) -> None:
    for row in rows:
        head = f"{row['net']:12} {row['mode']:5} {row['side']:7} {row['method']:9}"
        if "wrap" in row:
            print(head, f"{row['wrap']:6.2f} + {row['first_step']:6.2f} s {row['peak_megabytes']:6.0f} MB")
        else:
            print(head, f"{row['step_ms']:8.2f} ms, {row['ratio']:.3f} of float")


def main(_: Sequence[str]) -> None:
    rows = []
    for net in _NETS.value:
        for mode in _MODES.value:
            rows += waits(net, mode)
            rows += steps(net, mode) if _STEADY.value and mode == "sgd" else []
    goals = goals_of(rows)
    settings = {"batch": 32, "clock": "CPU seconds of the process", "rounds": _ROUNDS.value, "blocks": _BLOCKS.value}
    print_table(rows)
    print_goals(goals)
    print(write_results("first_step", rows, goals, seeds=[0], settings=settings))


if __name__ == "__main__":
    app.run(main)
