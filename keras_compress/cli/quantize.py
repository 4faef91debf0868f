"""The command that quantizes a trained model without labels."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from keras_compress.cli import report as cli_report
from keras_compress.cli.commands import CALIBRATION_SAMPLES
from keras_compress.cli.data import Data, as_input, load_model
from keras_compress.convert.files import make_folder, save_keras_atomic
from keras_compress.core.outputs import check_output
from keras_compress.post_training.quantize import quantize_post_training
from keras_compress.report.summary import summary


def quantize(values: flags.FlagValues) -> None:
    """`keras-compress quantize`."""
    path = check_output(values.out, ".keras", {"--model": values.model, "--data": values.data}, "--out")
    model = load_model(values.model)
    examples = None
    if values.data:
        data = Data.load(values.data)
        examples = as_input(data.samples("train", "", "test"), model, data.path)[:CALIBRATION_SAMPLES]
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


def _ends(given: list[str] | None) -> list[float] | None:
    try:
        return None if given is None else [float(each) for each in given]
    except ValueError:
        raise ValueError(
            f"Expected two numbers for --input_range, such as 0,1. Received: --input_range={','.join(given or ())}"
        ) from None
