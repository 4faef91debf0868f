"""The command that quantizes a trained model without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
from absl import flags

from keras_compress.cli import report as cli_report
from keras_compress.cli.commands import CALIBRATION_SAMPLES
from keras_compress.cli.data import Data, as_input, load_model
from keras_compress.convert.files import make_folder, save_keras_atomic
from keras_compress.core.outputs import check_output
from keras_compress.pipelines.mixed_precision import mixed_precision
from keras_compress.post_training.quantize import quantize_post_training
from keras_compress.report.summary import summary

# Flags that say what a budget decides.
_NOT_MIXED = ("level", "weights", "activations", "scales", "input_range")


def quantize(values: flags.FlagValues) -> None:
    """`keras-compress quantize`."""
    path = check_output(values.out, ".keras", {"--model": values.model, "--data": values.data}, "--out")
    limits = None if values.budget is None else _limits(values.budget)
    model = load_model(values.model)
    examples = None
    if values.data:
        data = Data.load(values.data)
        examples = as_input(data.samples("train", "", "test"), model, data.path)[:CALIBRATION_SAMPLES]
    if limits is not None:
        _mix(model, examples, limits, values, path)
        return
    ends = _ends(values.input_range)
    make_folder(Path(path).parent)
    with cli_report.collected_warnings() as notes:
        quantized = quantize_post_training(
            model,
            examples,
            values.level if values.level == "auto" else int(values.level),
            values.weights,
            values.activations,
            per_channel=None if values.scales is None else values.scales == "channel",
            input_range=ends,
            seed=values.seed,
        )
        save_keras_atomic(quantized, path)
    summary(quantized, print_fn=print)
    cli_report.say(f"{path}: to be converted with `keras-compress convert`.", *notes)


def _mix(model: keras.Model, examples: Any, limits: dict[str, float], values: flags.FlagValues, path: Path) -> None:
    """Bits layer by layer under a budget.

    Raises:
        ValueError: Without data, or for flags that say what the budget is to decide.
    """
    given = [name for name in _NOT_MIXED if values[name].present]
    if given or examples is None:
        raise ValueError(
            f"Expected --data beside --budget, and none of {', '.join(f'--{name}' for name in _NOT_MIXED)}. "
            f"Received: {', '.join(f'--{name}' for name in given) or 'no --data'}"
        )
    make_folder(Path(path).parent)
    with cli_report.collected_warnings() as notes:
        found = mixed_precision(model, examples, limits, refine=values.refine)
        save_keras_atomic(found.model, path)
    options = " ".join(f"--{name}={value}" for name, value in found.convert_options.items())
    cli_report.say(str(found), f"{path}: to be converted with `keras-compress convert {options}`.", *notes)


def _limits(given: str) -> dict[str, float]:
    """`average_bits=4,bytes=0.5` as a mapping."""
    try:
        pairs = [each.split("=") for each in given.split(",")]
        return {name.strip(): float(value) for name, value in pairs}
    except ValueError:
        raise ValueError(
            f"Expected costs and limits for --budget, such as average_bits=4. Received: --budget={given}"
        ) from None


def _ends(given: list[str] | None) -> list[float] | None:
    try:
        return None if given is None else [float(each) for each in given]
    except ValueError:
        raise ValueError(
            f"Expected two numbers for --input_range, such as 0,1. Received: --input_range={','.join(given or ())}"
        ) from None
