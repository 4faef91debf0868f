"""The command that tells how many bits the sums of each layer need."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from keras_compress.cli import report as cli_report
from keras_compress.cli.data import Data, content_check
from keras_compress.report.tables import accumulator_table
from keras_compress.runtime.accumulators import accumulator_bits


def run(values: flags.FlagValues) -> None:
    """`keras-compress accumulator_bits`."""
    path = Path(values.model)
    content_check(path)
    x = Data.load(values.data).samples("test", "", "train") if values.data else None
    found = accumulator_bits(path, x, bits=values.bits)
    table = accumulator_table(found, f"{path.name}: bits that the sums of each layer need")
    cli_report.answer(values, found.to_dict(), [table] if found.rows else [], found.notes())
