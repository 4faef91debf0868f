"""Bits chosen layer by layer beside one width for all, after training: 4 and 3 bits on average, half of int8's file.

python benchmarks/mixed_precision.py [--quick] [--seeds=0,1,2] [--nets=mobilenet_v1,xception,mobilenet] [--files]
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import app, flags
from common import at_least, fashion_mnist, once, print_goals, write_results
from ptq_nets import EPOCHS, KEEP, TRAINED, trained

import keras_compress as kc
from keras_compress.pipelines.bit_choice import InfeasibleError
from keras_compress.post_training.fold_batch_norms import fold_batch_norms

SAMPLES, TESTED = 512, 10_000
WIDTHS = (2, 3, 4, 5, 6, 8)
AVERAGE_BITS = (4.0, 3.0)
_QUICK = flags.DEFINE_bool("quick", False, "One seed, little data; results are not written.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Networks to train.")
_NETS = flags.DEFINE_list(
    "nets", ["mobilenet_v1", "xception", "mobilenet"], "Which networks, others of `ptq_nets` too."
)
_FILES = flags.DEFINE_bool("files", False, "Half of the int8 file, too: minutes for each network.")


def accuracy(model: keras.Model, data: Any) -> float:
    x, y = data.x_test[:TESTED], data.y_test[:TESTED]
    return float((model.predict(x, batch_size=250, verbose=0).argmax(-1) == y).mean())


def rows_of(name: str, seed: int, data: Any) -> list[dict[str, Any]]:
    """Float, and each budget by each way to choose."""
    # Separable convolutions have bits of their own for each half.
    model = fold_batch_norms(trained(name, seed, data))
    # Choices are made on images that training has not seen.
    x = data.x_train[TRAINED : TRAINED + SAMPLES]
    begin = time.process_time()
    found = kc.sensitivity(model, of="bits", data=x, bits=WIDTHS)
    rows = [_row(name, seed, "float", model, data) | {"seconds": time.process_time() - begin}]
    for bits in AVERAGE_BITS:
        for solver, refine in (("uniform", 0), ("greedy", 0), ("milp", 0), ("milp", 1)):
            label = f"{bits:g} bits, {solver}" + (", refined" if refine else "")
            made = kc.mixed_precision(
                model, x, {"average_bits": bits}, weights=WIDTHS, solver=solver, refine=refine, sensitivity=found
            )
            rows.append(_row(name, seed, label, made.model, data, made))
    return rows + (_rows_of_files(name, seed, model, x, found, data) if _FILES.value else [])


def _rows_of_files(name: str, seed: int, model: keras.Model, x: Any, found: Any, data: Any) -> list[dict[str, Any]]:
    eight = kc.mixed_precision(model, x, kc.Budget(bytes=10**9), weights=(8,), sensitivity=found)
    rows = [_row(name, seed, "int8", eight.model, data, eight)]
    try:
        made = kc.mixed_precision(model, x, kc.Budget(bytes=eight.costs["bytes"] / 2), sensitivity=found)
    except InfeasibleError as error:
        return [*rows, {"net": name, "seed": seed, "row": "half of the file", "infeasible": str(error)}]
    return [*rows, _row(name, seed, "half of the file", made.model, data, made)]


def _row(name: str, seed: int, label: str, model: keras.Model, data: Any, made: Any = None) -> dict[str, Any]:
    row: dict[str, Any] = {"net": name, "seed": seed, "row": label, "accuracy": accuracy(model, data)}
    if made is not None:
        row["costs"], row["predicted"] = dict(made.costs), dict(made.predicted)
        row["bits"] = {each.name: each.bits for each in made.choices if each.kind == "weights"}
    print(name, seed, label, f"{row['accuracy']:.4f}", row.get("costs", ""), flush=True)
    return row


def goals_of(rows: Sequence[dict[str, Any]]) -> list[Any]:
    """At 4 bits on average against uniform bits; predicted bytes beside the file's."""
    goals = []
    for net in dict.fromkeys(row["net"] for row in rows):
        of_net = [row for row in rows if row["net"] == net and "accuracy" in row]
        means = {
            label: np.mean([row["accuracy"] for row in of_net if row["row"] == label])
            for label in dict.fromkeys(row["row"] for row in of_net)
        }
        ahead = means["4 bits, milp"] - means["4 bits, uniform"]
        goals.append(at_least(f"{net}: points above uniform at 4 bits", 100 * float(ahead), 1.0))
        if (label := "half of the file") in means:
            goals.append(
                at_least(f"{net}: points above int8 at half its file", 100 * float(means[label] - means["int8"]), -0.3)
            )
    sizes = [row for row in rows if "bytes" in row.get("costs", {})]
    off = [abs(row["predicted"]["bytes"] / row["costs"]["bytes"] - 1) for row in sizes]
    goals.append(at_least("percent that predicted bytes are off, negated", -100 * max(off, default=0.0), -1.0))
    return goals


def main(arguments: Sequence[str]) -> None:
    data, rows = fashion_mnist(_QUICK.value), []
    seeds = list(map(int, _SEEDS.value[: 1 if _QUICK.value else None]))
    files = "_files" if _FILES.value else ""
    for name in _NETS.value:
        for seed in seeds:
            kept = Path(KEEP) / f"mixed_{name}_{seed}{files}{'_quick' if _QUICK.value else ''}.json"
            rows += once(kept, lambda name=name, seed=seed: {"rows": rows_of(name, seed, data)})["rows"]
    goals = goals_of(rows)
    if not _QUICK.value:
        settings = {"trained": TRAINED, "epochs": EPOCHS, "samples": SAMPLES, "tested": TESTED, "widths": list(WIDTHS)}
        print(write_results("mixed_precision", rows, goals, seeds=seeds, settings=settings))
    print_goals(goals)


if __name__ == "__main__":
    app.run(main)
