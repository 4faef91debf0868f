"""The command that tells how much a model minds what a method takes away, part by part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl import flags

from keras_compress.cli import report as cli_report
from keras_compress.cli.data import Data, as_input, load_model
from keras_compress.convert.files import make_folder
from keras_compress.core.outputs import check_not_read, check_output
from keras_compress.pipelines.sensitivity import sensitivity

# Scans that can do without labels.
_UNLABELLED = ("bits", "ranks")


def run(values: flags.FlagValues) -> None:
    """`keras-compress sensitivity`."""
    read = {"--model": values.model, "--data": values.data}
    out = None if values.out is None else check_output(values.out, ".json", read, "--out")
    if values.plot is not None:
        check_not_read(Path(values.plot), read, "--plot")
    model, data = load_model(values.model), Data.load(values.data)
    options: dict[str, Any] = {} if values.method is None else {"method": values.method}
    options |= {name: _numbers(name, getattr(values, name)) for name in ("ratios", "bits") if getattr(values, name)}
    with cli_report.collected_warnings() as notes:
        found = sensitivity(model, of=values.of, data=_examples(data, model, values.of), **options)
    for path in (out, values.plot):
        if path is not None:
            make_folder(Path(path).parent)
    if out is not None:
        found.save(out)
    if values.plot is not None:
        found.plot(values.plot)
    print(found)
    cli_report.say(*notes)


def _examples(data: Data, model: Any, of: str) -> Any:
    """Samples and labels; samples alone where there are no labels and none are needed."""
    if of in _UNLABELLED and not any(key.startswith("y") for key in data.arrays):
        return as_input(data.samples("test", "", "train"), model, data.path)
    x, y = data.part("test", "", "train")
    return as_input(x, model, data.path), y


def _numbers(flag: str, texts: list[str]) -> list[float] | list[int]:
    try:
        return [int(text) for text in texts] if flag == "bits" else [float(text) for text in texts]
    except ValueError:
        raise ValueError(f"Expected numbers for --{flag}. Received: --{flag}={','.join(texts)}") from None
