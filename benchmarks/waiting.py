"""How long one waits for `convert` and `verify`, the first time in a process, beside TensorFlow's own converter.

python benchmarks/waiting.py
python benchmarks/waiting.py --networks="small CNN,ViT-6x192" --rounds=1 --output=/tmp/waiting
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags
from common import RESULTS, Goal, at_most, print_goals, write_results
from waiting_child import SIDES, VERIFIED
from waiting_models import MODELS
from waiting_table import write_page

SAMPLES, LONGEST_S = 16, 900
# CPU seconds that one should wait at most.
CONVERT = {
    "small CNN": 0.4,
    "MobileNetV2-224": 3.0,
    "EfficientNetB0": 5.0,
    "ViT-6x192": 3.0,
    "LSTM 64x40": 1.5,
    "unrolled LSTM 64x40": 1.5,
    "ResNet50": 5.0,
}
VERIFY = {"MobileNetV2-224": 3.0}
_NETWORKS = flags.DEFINE_list("networks", list(MODELS), "Networks to wait for.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Processes of each side for a network.")
_OUTPUT = flags.DEFINE_string("output", str(RESULTS), "Folder of waiting.json and waiting.md.")
_QUICK = flags.DEFINE_bool("quick", False, "One round of the smallest network; results are not written.")
Stage = dict[str, float]


def waited(side: str, network: str, folder: Path) -> dict[str, Any]:
    """What one fresh process has measured: `{"stages": ...}` and facts; the error where it failed."""
    path = folder / f"{side}.json"
    path.unlink(missing_ok=True)
    child = str(Path(__file__).resolve().parent / "waiting_child.py")
    done = subprocess.run(
        [sys.executable, child, side, network, str(path), str(SAMPLES)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"stages": {}}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        found["error"] = f"status {done.returncode}: {last[:300]}"
    return found


def row_of(network: str, rounds: int) -> dict[str, Any]:
    """Medians of both sides, measured in turns."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for side, found in runs.items():
                found.append(waited(side, network, Path(folder)))
                print(network, side, found[-1].get("error", found[-1]["stages"]), flush=True)
    return {"network": network, **{side: _median(found) for side, found in runs.items()}}


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median of each stage, each run's CPU seconds beside it, and the facts of the last run."""
    made: dict[str, Any] = {key: value for key, value in runs[-1].items() if key != "stages"}
    whole = [run for run in runs if "error" not in run]
    for stage in whole[0]["stages"] if whole else ():
        stages = [_with_runtimes(run, stage) for run in whole]
        made[stage] = {
            "cpu_s": statistics.median(each["cpu_s"] for each in stages),
            "wall_s": statistics.median(each["wall_s"] for each in stages),
            "peak_mb": statistics.median(each["peak_bytes"] for each in stages) / 1e6,
            "each_cpu_s": [each["cpu_s"] for each in stages],
        }
    return made


def _with_runtimes(run: dict[str, Any], stage: str) -> Stage:
    found: Stage = run["stages"][stage]
    if stage == "verify":
        return {**found, "cpu_s": round(found["cpu_s"] + run["runtimes_cpu_s"], 3)}
    return found


def goals_of(rows: Sequence[dict[str, Any]]) -> list[Goal]:
    """Seconds of converting and verifying, and memory beside TensorFlow's converter."""
    goals = []
    for row in rows:
        network, ours, theirs = row["network"], row["ours"], row["tensorflow"]
        for stage, bounds in (("convert", CONVERT), ("verify", VERIFY)):
            if network in bounds and stage in ours:
                goals.append(at_most(f"{network}, {stage}, CPU s", ours[stage]["cpu_s"], bounds[network]))
        if "convert" in ours and "convert" in theirs:
            peaks = ours["convert"]["peak_mb"], theirs["convert"]["peak_mb"]
            goals.append(at_most(f"{network}, peak memory of convert, MB", *peaks))
    return goals


def main(arguments: Sequence[str]) -> None:
    networks, rounds = (list(MODELS)[:1], 1) if _QUICK.value else (_NETWORKS.value, _ROUNDS.value)
    settings, output = {"samples": SAMPLES, "verified": VERIFIED, "rounds": rounds}, Path(_OUTPUT.value)
    rows: list[dict[str, Any]] = []
    for network in networks:
        rows.append(row_of(network, rounds))
        if not _QUICK.value:
            # What there is when it is interrupted is of use.
            print(write_results("waiting", rows, goals_of(rows), seeds=[0], settings=settings, directory=output))
            write_page(output)
    print_goals(goals_of(rows))


if __name__ == "__main__":
    app.run(main)
