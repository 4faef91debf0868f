"""The command that makes a model wider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl import flags

from keras_compress.cli import report as cli_report
from keras_compress.cli.data import load_model
from keras_compress.convert.files import make_folder, save_keras_atomic
from keras_compress.core.outputs import check_output
from keras_compress.structured.widen import widen


def run(values: flags.FlagValues) -> None:
    """`keras-compress widen`."""
    path = check_output(values.out, ".keras", {"--model": values.model}, "--out")
    model = load_model(values.model)
    make_folder(Path(path).parent)
    target: dict[Any, float] = {name: values[name].value for name in ("macs", "params") if values[name].value}
    with cli_report.collected_warnings() as notes:
        wide = widen(
            model,
            values.factor,
            target=target or None,
            function_preserving=values.function_preserving,
            round_to=values.round_to,
            seed=values.seed,
        )
        save_keras_atomic(wide, path)
    begins = "computes what the model did" if values.function_preserving else "begins with new weights"
    cli_report.say(
        f"{path}: {model.count_params():,} -> {wide.count_params():,} parameters; it {begins}, to be trained.", *notes
    )
