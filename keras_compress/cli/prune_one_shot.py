"""The command that prunes the weights of a model at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
from absl import flags

from keras_compress.cli import report as cli_report
from keras_compress.cli.data import Data, as_input, load_model, task_of
from keras_compress.convert.files import make_folder, save_keras_atomic
from keras_compress.core.outputs import check_output
from keras_compress.pruning.criteria.saliency import Saliency
from keras_compress.pruning.one_shot import checked_criterion, prune_one_shot
from keras_compress.report.summary import summary


def run(values: flags.FlagValues) -> None:
    """`keras-compress prune_one_shot`."""
    path = check_output(values.out, ".keras", {"--model": values.model, "--data": values.data}, "--out")
    criterion = checked_criterion(values.criterion)
    zeros_by, block_size = (_pair(f"--{flag}", values[flag].value) for flag in ("zeros_by", "block_size"))
    model = load_model(values.model)
    data, loss = _examples(values.data, model, criterion)
    make_folder(Path(path).parent)
    with cli_report.collected_warnings() as notes:
        pruned = prune_one_shot(
            model,
            values.sparsity,
            criterion,
            data,
            loss=loss,
            scope=values.scope,
            block_size=block_size or (1, 1),
            sparsity_m_by_n=zeros_by,
        )
        save_keras_atomic(pruned, path)
    summary(pruned, print_fn=print)
    cli_report.say(f"{path}: to be trained on (`keras-compress compress`), quantized or converted.", *notes)


def _examples(path: str | None, model: keras.Model, criterion: Saliency) -> tuple[Any, Any]:
    """What the criterion needs of a file, and the loss."""
    if path is None or not criterion.needs:
        return None, None
    data = Data.load(path)
    if "targets" not in criterion.needs:
        return as_input(data.samples("train", "", "test"), model, data.path), None
    x, y = data.part("train", "", "test")
    return (as_input(x, model, data.path), y), task_of(model, y).new_loss()


def _pair(flag: str, given: list[str] | None) -> tuple[int, int] | None:
    if given is None:
        return None
    if len(given) != 2 or not all(each.strip().isdecimal() for each in given):
        raise ValueError(f"Expected two whole numbers for {flag}, such as 2,4. Received: {flag}={','.join(given)}")
    first, second = (int(each) for each in given)
    return first, second
