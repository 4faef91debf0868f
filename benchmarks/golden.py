"""Does the converter still make the same files? Records what 480 small models become, and compares with other code.

python benchmarks/golden.py record --folder=/tmp/golden                  # with the code before a change
python benchmarks/golden.py compare --folder=/tmp/golden                 # with the code behind it
python benchmarks/golden.py compare --folder=/tmp/golden --match=LSTM --match="few bits" --verbose

`record` writes a `.tflite` file, the outputs of 20 inputs on each kernel, and what the conversion says of itself.
`compare` makes the same anew, in `FOLDER/new` unless told, and ends with status 1 where anything is worse or another.
The models are in `golden_models.py`; what is compared is in `golden_files.py`.
"""

from __future__ import annotations

import collections
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from absl import app, flags
from common import commit, versions
from golden_models import CASES
from golden_records import Record, file_name
from golden_verdicts import STATUSES, Verdict, verdict
from golden_workers import run

from keras_compress.convert.files import write_atomic

_FOLDER = flags.DEFINE_string("folder", None, "What is recorded, or compared with.")
_MATCH = flags.DEFINE_multi_string("match", [], "Parts of names of models; all models without.")
_WORKERS = flags.DEFINE_integer("workers", 1, "Processes at a time; 0 to convert in this one.")
_NEW = flags.DEFINE_string("new", None, "Where `compare` leaves what it makes; FOLDER/new unless told.")
_VERBOSE = flags.DEFINE_bool("verbose", False, "All that differs, line by line.")
_MISSING = flags.DEFINE_bool("missing", False, "Record only what has no record yet, as after an interruption.")
SOUND = ("identical", "equal", "better")


def matching(names: Iterable[str], parts: Iterable[str]) -> list[str]:
    """Names that contain one of the parts."""
    parts = list(parts)
    return [name for name in names if not parts or any(part in name for part in parts)]


def record(names: list[str], folder: Path, workers: int) -> None:
    """Make records of models, and say with which code."""
    started = time.monotonic()
    for number, name in enumerate(run(names, folder, workers), 1):
        found = Record.read(folder, name)
        print(f"[{number}/{len(names)}, {time.monotonic() - started:.0f} s] {name}: {found.told()}", flush=True)
    write_atomic(folder / "code.json", json.dumps({"commit": commit(), "versions": versions()}, indent=1).encode())


def compare(names: list[str], folder: Path, new: Path, workers: int, verbose: bool) -> list[tuple[str, Verdict]]:
    """Make models anew, and print what became of each beside the record."""
    found = []
    started = time.monotonic()
    for number, name in enumerate(run(names, new, workers), 1):
        judged = verdict(Record.read(folder, name), Record.read(new, name))
        found.append((name, judged))
        print(f"{judged.status:<10} {name}{' | ' if judged.text else ''}{judged.text}", flush=True)
        for line in judged.details if verbose else ():
            print(f"{'':<12} {line}", flush=True)
        print(f"[{number}/{len(names)}, {time.monotonic() - started:.0f} s]", file=sys.stderr, flush=True)
    return found


def summary(found: list[tuple[str, Verdict]]) -> str:
    """Models of each group by verdict, and the sizes of all that converted both times."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for name, judged in found:
        counts[CASES[name].group][judged.status] += 1
    counts["all"] = sum(counts.values(), collections.Counter())
    lines = ["", f"{'':<20}" + "".join(f"{status:>12}" for status in STATUSES)]
    lines += [f"{group:<20}" + "".join(f"{row[status]:>12}" for status in STATUSES) for group, row in counts.items()]
    for what in ("operators", "bytes"):
        pairs = [judged.totals[what] for _, judged in found if what in judged.totals]
        before, after = (sum(pair[side] for pair in pairs) for side in (0, 1))
        lines.append(f"{what} of {len(pairs)} models: {before:,} -> {after:,}")
    texts = collections.Counter(part for _, judged in found for part in judged.told)
    lines += [f"told of {count} models: {text}" for text, count in texts.most_common(8)]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[1] not in ("record", "compare") or not _FOLDER.value:
        raise app.UsageError("Expected `record` or `compare` with --folder.")
    folder, names = Path(_FOLDER.value), matching(CASES, _MATCH.value)
    known = [name for name in names if (folder / file_name(name, "json")).is_file()]
    if arguments[1] == "record":
        record([name for name in names if not _MISSING.value or name not in known], folder, _WORKERS.value)
        return 0
    if not known:
        raise app.UsageError(f"Expected records of {len(names)} models in {folder}. Received: none")
    new = Path(_NEW.value or folder / "new")
    found = compare(known, folder, new, _WORKERS.value, _VERBOSE.value)
    print(summary(found))
    if len(known) < len(names):
        print(f"not recorded: {len(names) - len(known)} models")
    return int(any(judged.status not in SOUND for _, judged in found))


if __name__ == "__main__":
    app.run(main)
