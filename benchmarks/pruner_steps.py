"""What pruning costs while a network trains: the first step and those behind it, over the float network's, in turns.

python benchmarks/pruner_steps.py [--quick] [--nets=lenet300,resnet8]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import keras
import numpy as np
from absl import app, flags
from common import RESULTS, at_most, print_goals, write_results
from timing import in_turns, summarize

import keras_compress as kc
from keras_compress.demo import models

# Network -> how it is made, batch size, steps in a block.
NETS: dict[str, tuple[Callable[[], keras.Model], int, int]] = {
    "lenet300": (models.lenet300, 128, 20),
    "resnet8": (lambda: models.resnet8(filters=16), 32, 8),
}
# Steps of the training that schedules are made for: masks are chosen anew once in a block or two.
STEPS, BLOCKS, FIRSTS = 1000, 9, 3
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
Wrap = Callable[[keras.Model], keras.Model]
_QUICK = flags.DEFINE_bool("quick", False, "Two blocks; results are not written.")
_NETS = flags.DEFINE_list("nets", list(NETS), "Networks.")


def pruners() -> dict[str, Wrap]:
    """Every way that acts while a network trains, to 90 % where it can be told."""
    ramp = kc.PolynomialDecay(0.0, 0.9, begin_step=50, end_step=600, frequency=16)
    constant = kc.ConstantSparsity(0.9, begin_step=0, end_step=750, frequency=16)
    phases = kc.AlternatingSparsity(0.9, begin_step=100, end_step=800, frequency=50)
    objects = [
        kc.ThresholdPruner(ramp, 1.5),
        kc.AcDcPruner(phases),
        kc.StrPruner(),
        kc.PdpPruner(ramp),
        kc.MovementPruner(ramp),
        kc.ContinuousSparsificationPruner(800),
        kc.L0Pruner(),
        kc.RegularizedPruner(ramp),
        kc.VariationalDropoutPruner(1e-5),
    ]
    found: dict[str, Wrap] = {
        "MagnitudePruner": lambda model: kc.prune_low_magnitude(model, ramp),
        "RigLPruner": lambda model: kc.train_sparse(model, constant, method="rigl"),
        "SetPruner": lambda model: kc.train_sparse(model, constant, method="set"),
        "FixedMaskPruner": lambda model: kc.prune_one_shot(model, 0.9),
    }
    return found | {type(each).__name__: _with(each) for each in objects}


def _with(pruner: Any) -> Wrap:
    return lambda model: kc.prune(model, pruner)


def step_of(model: keras.Model, x: Any, y: Any) -> Callable[[], object]:
    """A training step by Adam."""
    model.compile(keras.optimizers.Adam(1e-3), LOSS, jit_compile=False)
    return lambda: model.train_on_batch(x, y)


def first(make: Callable[[], keras.Model], x: Any, y: Any) -> float:
    """CPU seconds of a new model's first step, the median of some."""
    found = []
    for _ in range(1 if _QUICK.value else FIRSTS):
        step = step_of(make(), x, y)
        begin = time.process_time()
        step()
        found.append(time.process_time() - begin)
    return median(found)


def rows_of(net: str) -> list[dict[str, Any]]:
    """A row for each pruner."""
    make, batch, block = NETS[net]
    draws = np.random.default_rng(0)
    x, y = draws.normal(size=(batch, 28, 28, 1)).astype(np.float32), draws.integers(0, 10, batch)
    step_of(make(), x, y)()  # what TensorFlow does once in a process
    rows = []
    for name, wrap in pruners().items():
        steps = {"float": step_of(make(), x, y), name: step_of(wrap(make()), x, y)}
        times = in_turns(steps, block, 2 if _QUICK.value else BLOCKS, block, time.process_time)
        base = first(make, x, y)
        waited = first(lambda wrap=wrap: wrap(make()), x, y)  # type: ignore[misc]
        figures = summarize(times)
        row = {"net": net, "pruner": name, "float_step_ms": figures["float"]["step_ms"], **figures[name]}
        rows.append({**row, "first_step_s": waited, "first_ratio": waited / base})
        print(rows[-1], flush=True)
        keras.backend.clear_session()
    return rows


def main(_: Sequence[str]) -> None:
    """Measure, print, write."""
    rows = [row for net in _NETS.value for row in rows_of(net)]
    goals = [
        goal
        for row in rows
        for goal in (
            at_most(f"{row['net']}, {row['pruner']}: step over float", row["ratio"], 1.15),
            at_most(f"{row['net']}, {row['pruner']}: first step over float", row["first_ratio"], 2.0),
        )
    ]
    print_goals(goals)
    if not _QUICK.value:
        settings = {net: {"batch_size": batch} for net, (_, batch, _) in NETS.items()}
        write_results("pruner_steps", rows, goals, seeds=[0], settings=settings, directory=RESULTS)


if __name__ == "__main__":
    app.run(main)
