"""The command that puts compact forms in the place of a trained model's convolutions."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from keras_compress.cli import report as cli_report
from keras_compress.cli.data import load_model
from keras_compress.cli.factorize import number, target_of
from keras_compress.convert.files import make_folder, save_keras_atomic
from keras_compress.core.outputs import check_output
from keras_compress.factorization.compact import compact
from keras_compress.report.summary import summary


def run(values: flags.FlagValues) -> None:
    """`keras-compress compact`."""
    path = check_output(values.out, ".keras", {"--model": values.model}, "--out")
    model = load_model(values.model)
    rank = None if values.rank is None else number("--rank", values.rank)
    make_folder(Path(path).parent)
    with cli_report.collected_warnings() as notes:
        made = compact(model, values.method, rank, target=target_of(values))
        save_keras_atomic(made, path)
    summary(made, print_fn=print)
    cli_report.say(f"{path}: to be trained on, best with the original as teacher, then quantized or converted.", *notes)
