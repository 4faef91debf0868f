"""The command that factorizes the layers of a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl import flags

from keras_compress.cli import report as cli_report
from keras_compress.cli.data import Data, as_input, load_model
from keras_compress.convert.files import make_folder, save_keras_atomic
from keras_compress.core.outputs import check_output
from keras_compress.factorization.factorize import factorize
from keras_compress.factorization.work import SAMPLES
from keras_compress.report.summary import summary


def run(values: flags.FlagValues) -> None:
    """`keras-compress factorize`."""
    path = check_output(values.out, ".keras", {"--model": values.model, "--data": values.data}, "--out")
    model = load_model(values.model)
    examples = None
    if values.data:
        data = Data.load(values.data)
        examples = as_input(data.samples("train", "", "test"), model, data.path)[:SAMPLES]
    make_folder(Path(path).parent)
    with cli_report.collected_warnings() as notes:
        made = factorize(model, values.method, **_extent(values), data=examples, multiple=values.multiple)
        save_keras_atomic(made, path)
    summary(made, print_fn=print)
    cli_report.say(f"{path}: to be trained on, quantized or converted.", *notes)


def _extent(values: flags.FlagValues) -> dict[str, Any]:
    """The rank or the target."""
    rank = values.rank
    if rank is not None and rank != "evbmf":
        rank = number("--rank", rank)
    return {"rank": rank, "target": target_of(values)}


def target_of(values: flags.FlagValues) -> dict[str, float] | None:
    """The target that flags named by costs give; `None` for none."""
    costs = {name: getattr(values, name) for name in ("macs", "params", "bytes")}
    target = {name: float(number(f"--{name}", text)) for name, text in costs.items() if text is not None}
    return target or None


def number(flag: str, text: str) -> int | float:
    """What a flag's text says.

    Raises:
        ValueError: For what is no number.
    """
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        raise ValueError(f"Expected a number for {flag}. Received: {flag}={text}") from None
