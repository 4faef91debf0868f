"""The command that tells which layers are computed without their zeros."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from keras_compress.cli import report as cli_report
from keras_compress.cli.data import content_check, load_model
from keras_compress.report.tables import sparse_table
from keras_compress.runtime.sparse_ready import sparse_ready


def run(values: flags.FlagValues) -> int:
    """`keras-compress sparse_ready`; 1 where a runtime would compute something wrong."""
    path = Path(values.model)
    content_check(path)
    with cli_report.collected_warnings() as notes:
        found = sparse_ready(load_model(path) if path.suffix == ".keras" else path)
    title = f"{path.name}: layers that can be computed without their zeros"
    cli_report.answer(values, found.to_dict(), [sparse_table(found, title)], [*found.notes(), *notes])
    return int(bool(found.wrong))
