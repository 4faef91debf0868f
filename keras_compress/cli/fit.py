"""The command that makes a model fit a budget."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from keras_compress.cli import report as cli_report
from keras_compress.cli.data import Array, Data, as_input, load_model, on_training_data, task_of
from keras_compress.convert.files import make_folder, save_keras_atomic, write_atomic
from keras_compress.core.budget import Budget
from keras_compress.core.sizes import size_bytes
from keras_compress.data.training import Training
from keras_compress.pipelines.fit_limits import board_limits
from keras_compress.pipelines.fit_result import Fitted
from keras_compress.pipelines.fit_to import fit_to
from keras_compress.runtime.check import RUNTIME_CODE_BYTES
from keras_compress.runtime.measure import Metric

# One of so many training samples is held out for choices, where the file has no validation data.
HELD_OUT = 10


def run(values: flags.FlagValues) -> int:
    """`keras-compress fit`; 1 where nothing is within the budget."""
    model, data = load_model(values.model), Data.load(values.data)
    x, y = data.part("train", "")
    x_test, y_test = data.part("test", "train", "")
    said = on_training_data(x_test, x)
    x_test = as_input(x_test, model, data.path)
    (x, y), (x_val, y_val), seen = _parts(data, x, y, values.seed)
    said += seen
    x, x_val = as_input(x, model, data.path), as_input(x_val, model, data.path)
    task = task_of(model, y)
    sign = -1.0 if task.name == "regression" else 1.0
    metric: Metric = lambda outputs, labels: sign * task.metric(outputs, labels)  # noqa: E731
    folder = make_folder(values.out)
    training = Training(
        task.new_loss(),
        _epochs(values.epochs),
        values.learning_rate,
        batch_size=values.batch_size,
        seed=values.seed,
    )
    with cli_report.collected_warnings() as notes:
        found = fit_to(
            model,
            training.on(x, y),
            _budget(values),
            validation_data=(x_val, y_val),
            test_data=(x_test, y_test),
            target=values.target,
            max_drop=_share(values.max_drop),
            metric=metric,
            methods=values.methods,
            trials=values.trials,
            sampler=values.sampler,
            folder=folder,
            study=values.study,
            seed=values.seed,
        )
        # The page tells accuracies.
        shown = None if task.name == "regression" else (x_test, y_test)
        said += _written(found, folder, shown, metric)
    notes = [note for note in notes if not note.startswith("Nothing is within")]
    lines = [*repr(found).splitlines(), "", *found.table().splitlines(), "", *found.notes, *said, *notes]
    cli_report.answer(values, found.to_dict(), [], lines)
    return int(not found.met)


def _parts(data: Data, x: Array, y: Array, seed: int) -> tuple[tuple[Array, Array], tuple[Array, Array], list[str]]:
    """Samples to train with, samples to choose by, and what is to be said of these."""
    if {"x_val", "y_val"} & set(data.arrays):
        return (x, y), data.part("val"), []
    # In no order of the file's: classes may stand one after another.
    held = np.zeros(len(x), bool)
    held[np.random.default_rng(seed).permutation(len(x))[: max(len(x) // HELD_OUT, 1)]] = True
    note = (
        "Choices were made by a tenth of the training data, which the model given was probably trained on: what it "
        "reaches there, and so what is lost, is too high. x_val, y_val in the data file take their place."
    )
    return (x[~held], y[~held]), (x[held], y[held]), [note]


def _epochs(given: list[str] | None) -> Any:
    """Epochs of channels, prune, cluster and quantize; one number holds for all."""
    kinds = ("channels", "prune", "cluster", "quantize")
    if given is None:
        return None
    try:
        numbers = [int(each) for each in given]
    except ValueError:
        raise ValueError(f"Expected whole numbers for --epochs. Received: --epochs={','.join(given)}") from None
    if len(numbers) not in (1, len(kinds)):
        raise ValueError(f"Expected one number for --epochs, or {len(kinds)}. Received: --epochs={','.join(given)}")
    return dict(zip(kinds, numbers * len(kinds) if len(numbers) == 1 else numbers, strict=False))


def _share(text: str) -> float:
    """A tolerated loss: 0.01, or 1%."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(%?)", text.strip())
    if found is None:
        raise ValueError(f"Expected --max_drop as 0.01 or 1%. Received: --max_drop={text}")
    return float(found[1]) / (100 if found[2] else 1)


def _budget(values: flags.FlagValues) -> Budget:
    named: dict[str, float] = {}
    if values.board or values.flash or values.arena:
        if values.target != "tflm":
            raise ValueError(f"Expected --target=tflm for --board, --flash or --arena. Received: {values.target}")
        code = RUNTIME_CODE_BYTES if values.code is None else size_bytes(values.code, "code")
        named.update(board_limits(values.board, values.flash, values.arena, code))
    if values.bytes is not None:
        # Where --flash or --board limits the file too, the smaller counts.
        named["bytes"] = min(size_bytes(values.bytes, "bytes"), named.get("bytes", math.inf))
    named |= {name: getattr(values, name) for name in ("latency_ms", "energy_uj") if getattr(values, name) is not None}
    if not named:
        raise ValueError("Expected --board, --flash, --arena, --bytes, --latency_ms or --energy_uj. Received: none")
    return Budget(named)


def _written(found: Fitted, folder: Path, data: tuple[Any, Any] | None, metric: Metric) -> list[str]:
    """The best file under a name of its own, and the page."""
    lines = []
    if found.best is not None:
        write_atomic(folder / "best.tflite", found.best.content)
        save_keras_atomic(found.best.model, folder / "best.keras")
        lines.append(f"{folder / 'best.tflite'} is trial {found.best.number}'s; best.keras its model.")
    if found.pareto:
        page = folder / cli_report.PAGE_NAME
        try:
            found.save_report(page, *(data or ()), metric=metric)
            lines.append(f"{page} shows the files side by side.")
        except ImportError as error:
            lines.append(f"No {page}: {error}.")
    return lines
