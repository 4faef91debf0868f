"""The command that tells whether a file fits a microcontroller."""

from __future__ import annotations

from absl import flags

from keras_compress.cli import report as cli_report
from keras_compress.runtime.check import RUNTIME_CODE_BYTES
from keras_compress.runtime.check import check as check_file


def run(values: flags.FlagValues) -> int:
    """`keras-compress check`; 1 where the file does not fit."""
    code = RUNTIME_CODE_BYTES if values.code is None else values.code
    found = check_file(values.model, values.board, flash=values.flash, arena=values.arena, code=code)
    cli_report.answer(values, found.to_dict(), [], [*repr(found).splitlines(), *found.notes])
    return int(not found.fits)
