"""Which layers can be pruned, clustered, quantized and run on integers: tries each, and writes `docs/layers.md`.

python benchmarks/layers.py
python benchmarks/layers.py --only=LSTM --only=Conv3D   # rows whose name contains one of these, once more
"""

from __future__ import annotations

import json
import logging
import re
import sys
import warnings
from pathlib import Path
from typing import Any

from absl import app, flags
from common import RESULTS, Goal, at_least, at_most, print_goals, write_results
from layer_rows import ROWS, Row
from layer_table import markdown
from layer_trials import KERNELS, SAMPLES, UNFORESEEN, on_both, result_of

from keras_compress.convert.files import write_atomic

PAGE = RESULTS.parent.parent / "docs" / "layers.md"
FEWEST_ROWS_ON_BOTH = 40
_ONLY = flags.DEFINE_multi_string("only", [], "Parts of names of rows that are tried once more.")
_OUTPUT = flags.DEFINE_string("output", str(RESULTS), "Folder of layers.json; docs/layers.md is written beside it.")
_WORK = flags.DEFINE_string("work", "/tmp/keras_compress_layers", "Folder of what is finished already.")


def saved(row: Row, work: Path, again: bool) -> dict[str, Any]:
    """The row's result, from an earlier run unless it is wanted again."""
    # Unlike names for `x / 2` and `x ** 2`.
    path = work / (re.sub(r"\W", lambda found: f"_{ord(found[0]):x}", row.name) + ".json")
    if again or not path.is_file():
        print(row.name, "...", file=sys.stderr, flush=True)
        found = result_of(row)
        print("   ", {key: (cell["status"], cell.get("lsb")) for key, cell in found["cells"].items()}, file=sys.stderr)
        write_atomic(path, json.dumps(found).encode())
    return dict(json.loads(path.read_text()))


def main(_: list[str]) -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    work = Path(_WORK.value)
    work.mkdir(parents=True, exist_ok=True)
    rows = [saved(row, work, any(part in row.name for part in _ONLY.value)) for row in ROWS]
    goals: list[Goal] = [
        at_least("rows in int8 on both runtimes", on_both(rows), FEWEST_ROWS_ON_BOTH),
        at_most("trials that failed in a way not foreseen", json.dumps(rows).count(UNFORESEEN), 0),
    ]
    output = Path(_OUTPUT.value)
    settings = {"samples": SAMPLES, "kernels": {key: list(value) for key, value in KERNELS.items()}}
    path = write_results("layers", rows, goals, seeds=[0, 1], settings=settings, directory=output)
    page = PAGE if output == RESULTS else output / "layers.md"
    write_atomic(page, markdown(json.loads(path.read_text())).encode())
    print_goals(goals)
    print(path, page, sep="\n")


if __name__ == "__main__":
    app.run(main)
