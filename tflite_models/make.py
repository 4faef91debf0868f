"""Makes the models of this folder, their sources in C++ and their cards again: `python tflite_models/make.py`.

Everything is trained, converted, compared with the model that was trained, and measured in one run. A run that was
stopped goes on behind the last model that was trained.
"""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import argparse
import json
import shutil
import time
from pathlib import Path

import cards
import files
from figures import measured
from trained import Stages

import keras_compress as kc
from keras_compress.convert.files import make_folder, write_atomic

FOLDER = Path(__file__).parent
# Images that a converted model is compared with the trained one on.
COMPARED = 200


def made(stages: Stages, names: list[str]) -> dict[str, bytes]:
    """The files, by name."""
    found = {}
    for number, name in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {name}", flush=True)
        x = stages.data_of(files.FILES[name].stage).x_test[:COMPARED]
        found[name] = files.converted(name, stages[files.FILES[name].stage], x).content
    return found


def written(folder: Path, contents: dict[str, bytes], figures: cards.Figures) -> None:
    """Writes the models, the sources of one of them, the figures and the page."""
    make_folder(folder)
    for name, content in contents.items():
        write_atomic(folder / f"{name}.tflite", content)
    if files.EXPORTED in contents and "tflm" in figures[files.EXPORTED]:
        kc.export_c(contents[files.EXPORTED], folder / files.SOURCES, name=files.EXPORTED)
    write_atomic(folder / "figures.json", (json.dumps(figures, indent=1) + "\n").encode())
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    write_atomic(folder / "README.md", cards.page(page, figures).encode())


def main() -> None:
    """Trains, converts, compares, measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write to (default: this one)")
    parser.add_argument(
        "--work", type=Path, default=FOLDER.parent / "build" / "tflite_models",
        help="folder for trained models, until the run has ended (default: build/tflite_models)",
    )  # fmt: skip
    parser.add_argument("--only", nargs="*", choices=files.FILES, help="these files and no others; needs --out")
    parser.add_argument("--keep", action="store_true", help="keep the trained models in --work")
    arguments = parser.parse_args()
    if arguments.only is not None and arguments.out == FOLDER:
        parser.error("--only writes a page of these files alone: give --out")
    started = time.monotonic()
    stages = Stages(arguments.work)
    contents = made(stages, arguments.only or list(files.FILES))
    sets = {files.FILES[name].data: stages.data_of(files.FILES[name].stage) for name in contents}
    written(arguments.out, contents, measured(contents, sets))
    if not arguments.keep:
        shutil.rmtree(stages.folder, ignore_errors=True)
    print(f"{len(contents)} files in {arguments.out}, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
