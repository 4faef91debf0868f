"""Every family of `keras.applications`: what wrapping, a training step, stripping, converting and verifying cost.

Beside it the TF converter's own post-training quantization of the same networks. Each side works on each network in a
process of its own, so that peak memory is its own. A run that was interrupted goes on where it stopped.

    python benchmarks/zoo.py
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from absl import app, flags
from common import RESULTS, Goal, at_most, print_goals, write_results
from zoo_members import MEMBERS, TINY, Member, member

HERE = Path(__file__).resolve().parent
SIDES = ("train", "convert", "converter")
MOST_SHARE, MOST_MEMORY, MOST_EXPONENT = 0.10, 1.2, 1.1
_NETWORKS = flags.DEFINE_list("networks", [], "Networks, such as ResNet50 or MobileNet_alpha0.25; by default all.")
_SIDES = flags.DEFINE_list("sides", list(SIDES), "Sides to run now, out of train, convert and converter.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights, statistics and data.")
_SAMPLES = flags.DEFINE_integer("samples", 8, "Samples that both sides calibrate with.")
_LIMIT = flags.DEFINE_integer("time_limit_s", 1800, "Most seconds for one side's work on one network.")
_WORK = flags.DEFINE_string("work", "/tmp/keras_compress_zoo", "Folder of what is finished already.")
_AGAIN = flags.DEFINE_bool("again", False, "Run again what failed or was refused in an earlier run.")
_QUICK = flags.DEFINE_bool("quick", False, "One tiny network, to check the script; results stay in --work.")


def facts_of(which: Member, side: str, work: Path) -> dict[str, Any]:
    """What one side measured; run now unless an earlier run has finished it."""
    path = work / f"{which.name}_{side}.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    settled = known.get("finished") or ("failed" in known and not _AGAIN.value)
    if side not in _SIDES.value or settled:
        return known
    print(f"{which.name}: {side} ...", file=sys.stderr, flush=True)
    path.unlink(missing_ok=True)
    problem = run_child(which, side, path)
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"stages": {}}
    if problem and "failed" not in found:
        found["failed"] = {"stage": "process", "error": "crash", "message": problem}
        path.write_text(json.dumps(found))
    return found


def run_child(which: Member, side: str, path: Path) -> str | None:
    """Run one side in a process of its own, its noise kept in a log; returns why it did not end well."""
    arguments = [side, which.name, str(path), str(_SEED.value), str(_SAMPLES.value)]
    with path.with_suffix(".log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, str(HERE / "zoo_child.py"), *arguments],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = child.wait(timeout=_LIMIT.value)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return f"not finished after {_LIMIT.value} seconds"
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            raise
    return None if code == 0 else f"exit code {code}; see {path.with_suffix('.log').name}"


def row_of(which: Member, sides: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One network: the facts of all sides, and the figures that the goals are about."""
    shared = next((found for found in sides.values() if "parameters" in found), {})
    row: dict[str, Any] = {"family": which.family, "size": which.size, "network": which.name, "note": which.note}
    row |= {key: shared.get(key) for key in ("parameters", "layers", "input_shape", "multiplications")}
    row["outcome"] = outcome(sides)
    row |= share_of_conversion(sides["convert"], sides["converter"])
    whole, stock = seconds(sides["convert"], "convert"), seconds(sides["converter"], "float")
    row["over_stock_float"] = whole / stock if whole and stock else None
    ours, theirs = (peak(sides[side], stage) for side, stage in (("convert", "convert"), ("converter", "ptq")))
    row["memory_ratio"] = ours / theirs if ours and theirs else None
    for side, found in sides.items():
        row[side] = {k: v for k, v in found.items() if k not in ("parameters", "layers", "input_shape")}
    return row


def outcome(sides: dict[str, dict[str, Any]]) -> str:
    """`"converted"`, `"refused"` (an error of ours that says why), `"failed"` or `"not run"`."""
    ours = [sides[side] for side in ("convert", "train") if sides[side]]
    failed = [found["failed"] for found in ours if "failed" in found]
    if failed:
        named = all(each["error"] in ("ValueError", "TypeError", "ConversionError") for each in failed)
        return "refused" if named else "failed"
    return "converted" if sides["convert"].get("finished") else "not run"


def share_of_conversion(found: dict[str, Any], stock: dict[str, Any]) -> dict[str, float | None]:
    """Our `convert` without running the samples, and its share of all of the TF converter's quantization."""
    if not found.get("parts"):
        return {"own_cpu_s": None, "share_cpu": None}
    samples = found["parts"].get("calibrate", {}).get("cpu_s", 0.0)
    own, theirs = found["stages"]["convert"]["cpu_s"] - samples, seconds(stock, "ptq")
    return {"own_cpu_s": round(own, 3), "share_cpu": own / theirs if theirs else None}


def peak(found: dict[str, Any], stage: str) -> int | None:
    """Peak memory of a stage that ended well."""
    if found.get("failed", {}).get("stage") == stage:
        return None
    return found.get("stages", {}).get(stage, {}).get("peak_bytes")


def exponent(points: list[tuple[float, float]]) -> float:
    """Slope of a least-squares line through the logarithms: 1 is linear growth, 2 quadratic."""
    logs = [(math.log(x), math.log(y)) for x, y in points]
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in logs)
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / spread


def goals_of(rows: list[dict[str, Any]]) -> list[Goal]:
    goals = [at_most("networks neither converted nor refused by name", count(rows, "failed", "not run"), 0)]
    for row in (row for row in rows if row["share_cpu"] is not None):
        name = "our CPU time without the samples, over that of the TF converter's quantization with them"
        goals.append(at_most(f"{row['network']}: {name}", row["share_cpu"], 1.0))
    for row in (row for row in rows if row["over_stock_float"] is not None):
        name = "CPU time of our whole conversion, calibration included, over the TF converter's to float"
        goals.append(at_most(f"{row['network']}: {name}", row["over_stock_float"], 1 + MOST_SHARE))
    for row in (row for row in rows if row["memory_ratio"] is not None):
        name = "peak memory of the conversion over the TF converter's"
        goals.append(at_most(f"{row['network']}: {name}", row["memory_ratio"], MOST_MEMORY))
    points = [(row["parameters"], row["own_cpu_s"]) for row in rows if row["own_cpu_s"]]
    if len(points) > 2:
        name = "exponent of our CPU time in the number of parameters"
        goals.append(at_most(name, exponent(points), MOST_EXPONENT))
    return goals


def count(rows: list[dict[str, Any]], *outcomes: str) -> int:
    return sum(row["outcome"] in outcomes for row in rows)


def print_table(rows: list[dict[str, Any]]) -> None:
    """CPU seconds and memory, ours and the TF converter's; then what was refused, and what runs in float."""
    print(
        f"{'network':22} {'params':>7} {'wrap':>6} {'step':>6} {'strip':>6} {'convert':>8} {'TF PTQ':>7} {'TF flt':>6} "
        f"{'share':>6} {'memory':>7} {'ratio':>6} {'MB':>7} {'TF MB':>7} {'float':>5}  outcome"
    )
    for row in rows:
        train, ours, theirs = (row[side] for side in SIDES)
        cells = [
            f"{row['network']:22} {cell(row['parameters'], 1e-6, 6, 1)}M",
            *(cell(seconds(train, stage), 1, 6, 1) for stage in ("wrap", "step", "strip")),
            cell(seconds(ours, "convert"), 1, 8, 1),
            cell(seconds(theirs, "ptq"), 1, 7, 1),
            cell(seconds(theirs, "float"), 1, 6, 1),
            cell(row["share_cpu"], 1, 6, 2),
            cell(peak(ours, "convert"), 1e-6, 7, 0),
            cell(row["memory_ratio"], 1, 6, 2),
            cell(ours.get("file_bytes"), 1e-6, 7, 2),
            cell(theirs.get("file_bytes"), 1e-6, 7, 2),
            cell(len(ours["float_ops"]) if "float_ops" in ours else None, 1, 5, 0),
        ]
        print(*cells, f" {row['outcome']}")
    for row in rows:
        for side in SIDES:
            if "failed" in row[side]:
                failed = row[side]["failed"]
                print(f"{row['network']}, {side}, {failed['stage']}: {failed['error']}: {failed['message'][:300]}")


def seconds(found: dict[str, Any], stage: str) -> float | None:
    """CPU seconds of a stage that ended well."""
    if found.get("failed", {}).get("stage") == stage:
        return None
    return found.get("stages", {}).get(stage, {}).get("cpu_s")


def cell(value: float | None, factor: float, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value * factor:{width}.{digits}f}"


def main(_: list[str]) -> None:
    # Ended politely, a run takes its child with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = Path(_WORK.value) / ("quick" if _QUICK.value else "full")
    work.mkdir(parents=True, exist_ok=True)
    chosen = [TINY] if _QUICK.value else [member(name) for name in _NETWORKS.value] or list(MEMBERS)
    for which in chosen:
        for side in SIDES:
            facts_of(which, side, work)
    rows = []
    for which in chosen if _QUICK.value else MEMBERS:
        files = {side: work / f"{which.name}_{side}.json" for side in SIDES}
        rows.append(row_of(which, {side: _read(path) for side, path in files.items()}))
    goals = goals_of(rows)
    settings = {
        "samples": _SAMPLES.value,
        "weights": "random, normalizations with seeded statistics; normally distributed images",
        "share": "CPU time of convert without the samples' run and without the TF float conversion, over the latter",
        "memory": "highest resident memory of the process during the conversion, Python and TensorFlow included",
    }
    directory = work if _QUICK.value else RESULTS
    path = write_results("zoo", rows, goals, seeds=[_SEED.value], settings=settings, directory=directory)
    print_table(rows)
    print_goals(goals)
    print(path)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


if __name__ == "__main__":
    app.run(main)
