"""The command that takes over a model of tfmot."""

from __future__ import annotations

from absl import flags

from keras_compress.cli import report as cli_report
from keras_compress.convert.files import make_folder, save_keras_atomic
from keras_compress.core.outputs import check_output
from keras_compress.migrate.from_tfmot import from_tfmot
from keras_compress.report.summary import summary


def run(values: flags.FlagValues) -> None:
    """`keras-compress from_tfmot`."""
    path = check_output(values.out, ".keras", {"--model": values.model}, "--out")
    make_folder(path.parent)
    with cli_report.collected_warnings() as notes:
        made = from_tfmot(values.model)
        save_keras_atomic(made, path)
    summary(made, print_fn=print)
    cli_report.say(f"{path}: to be trained on, quantized or converted.", *notes)
