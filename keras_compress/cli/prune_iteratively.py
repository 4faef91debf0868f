"""The command that prunes a trained model in rounds, with training between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from keras_compress.cli import report as cli_report
from keras_compress.cli.data import Array, Data, Task, as_input, load_model, on_training_data, task_of
from keras_compress.cli.epochs import epochs_given
from keras_compress.convert.files import make_folder, save_keras_atomic
from keras_compress.core.outputs import check_not_read, check_output
from keras_compress.core.shown import columns
from keras_compress.data.training import Training
from keras_compress.pipelines.iterative_pruning import prune_iteratively
from keras_compress.pruning.rounds import PrunedInRounds
from keras_compress.runtime.measure import Metric

# One of so many training samples is held out, for the budget.
HELD_OUT = 10


def run(values: flags.FlagValues) -> int:
    """`keras-compress prune_iteratively`; 1 where no round was within the budget."""
    read = {"--model": values.model, "--data": values.data}
    path = check_output(values.out, ".keras", read, "--out")
    if values.plot is not None:
        check_not_read(Path(values.plot), read, "--plot")
    model, data = load_model(values.model), Data.load(values.data)
    x, y = data.part("train", "")
    x_test, y_test = data.part("test", "train", "")
    said = on_training_data(x_test, x)
    x, x_test = as_input(x, model, data.path), as_input(x_test, model, data.path)
    task = task_of(model, y)
    for folder in (Path(path).parent, *([Path(values.plot).parent] if values.plot else [])):
        make_folder(folder)
    held = np.arange(len(x)) % HELD_OUT == HELD_OUT - 1
    (epochs,) = epochs_given(values.epochs, 1) or (3,)
    rate = 2e-4 if values.learning_rate is None else values.learning_rate
    training = Training(task.new_loss(), epochs, rate, batch_size=values.batch_size, seed=values.seed)
    with cli_report.collected_warnings() as notes:
        found = prune_iteratively(
            model,
            training.on(x[~held], y[~held]),
            _numbers(values.sparsities),
            sparsity=_sparsity(values),
            rounds=values.rounds,
            scope=values.scope,
            max_drop=values.max_drop,
            metric=_higher_is_better(task),
            validation_data=(x[held], y[held]),
            seed=values.seed,
            folder=values.folder,
        )
        save_keras_atomic(found.model, path)
        if values.plot is not None:
            found.plot(values.plot)
    print("\n".join(_table(found, task)))
    print(f"{_metric_name(task)} on {len(x_test):,} samples: {_measured(found, task, x_test, y_test):.4g}")
    cli_report.say(f"{path}: {found.sparsity:.1%} zeros; to be clustered, quantized or converted.", *said, *notes)
    return int(not found.met)


def _sparsity(values: flags.FlagValues) -> float | None:
    if values.sparsities is None and values.sparsity is None:
        raise ValueError("Expected --sparsity or --sparsities. Received: neither")
    return values.sparsity  # type: ignore[no-any-return]


def _numbers(texts: list[str] | None) -> list[float] | None:
    if texts is None:
        return None
    try:
        return [float(text) for text in texts]
    except ValueError:
        raise ValueError(f"Expected numbers for --sparsities. Received: --sparsities={','.join(texts)}") from None


def _higher_is_better(task: Task) -> Metric:
    sign = -1.0 if task.name == "regression" else 1.0
    return lambda outputs, y: sign * task.metric(outputs, y)


def _metric_name(task: Task) -> str:
    return "mean absolute error" if task.name == "regression" else "accuracy"


def _measured(found: PrunedInRounds, task: Task, x: Array, y: Any) -> float:
    return task.metric([np.asarray(found.model.predict(x, verbose=0))], y)


def _table(found: PrunedInRounds, task: Task) -> list[str]:
    """A line for each round, with the metric of the samples that were held out."""
    sign = -1.0 if task.name == "regression" else 1.0
    head = ("round", "zeros", f"{_metric_name(task)}, held out", "steps", "within the budget")
    rows = [
        (
            str(each.number),
            f"{each.sparsity:.1%}",
            f"{sign * each.metric:.4g}",
            f"{each.steps:,}",
            "yes" if each.within_budget else "no",
        )
        for each in found.rounds
    ]
    return columns([head, *rows])
