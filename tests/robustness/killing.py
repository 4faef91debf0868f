"""Commands killed at random moments, and what they leave: used by the test and by `benchmarks/kills.py`.

One process imports everything, makes an intact model and data, and forks for each run: a run then takes seconds
instead of ten. Run as a program it prints one line of JSON for each run.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

TEMPORARY = ".keras_compress-*"


@dataclass(frozen=True)
class Killed:
    """How one run ended.

    Attributes:
        command: `"convert"` or `"compress"`.
        moment: `"any"` time of the run, or while it was `"writing"`.
        after_seconds: When it was killed.
        finished: It was done before.
        files: File -> `"old"`, `"new"` or what is wrong with it.
        leftovers: Temporary files that it left.
    """

    command: str
    moment: str
    after_seconds: float
    finished: bool
    files: dict[str, str]
    leftovers: int

    @property
    def whole(self) -> bool:
        """Whether each file is the old one or the new one."""
        return set(self.files.values()) <= {"old", "new"}


class Killer:
    """Runs commands in forked copies of this process and kills them.

    Args:
        folder: For the files.
        seed: Of the moments.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.generator = folder, np.random.default_rng(seed)
        out = folder / "out"
        common = [f"--model={folder}/model.keras", f"--data={folder}/data.npz"]
        self._commands: dict[str, tuple[list[str], list[Path]]] = {
            "convert": ([*common, f"--out={out}/model.tflite"], [out / "model.tflite"]),
            "compress": (
                [*common, f"--out={out}", "--recipe=ptq"],
                [out / name for name in ("model_compressed.keras", "model_compressed.tflite", "report.json")],
            ),
        }
        self._out = out
        self._wait(self._fork(lambda: _make_files(folder)))
        self.seconds: dict[str, float] = {}
        self._new: dict[Path, bytes] = {}
        for name, (_, paths) in self._commands.items():
            began = time.monotonic()
            if self._wait(self._fork(lambda name=name: self._command(name))):
                raise RuntimeError(f"Expected `{name}` to work when it is not killed.")
            self.seconds[name] = time.monotonic() - began
            self._new.update({path: path.read_bytes() for path in paths})

    def kill(self, name: str, moment: str) -> Killed:
        """One run of `"convert"` or `"compress"`, killed at `"any"` moment or while it is `"writing"`."""
        arguments, paths = self._commands[name]
        for path in paths:
            path.write_bytes(b"old " + path.name.encode())
        before = self._temporary()
        began = time.monotonic()
        process = self._fork(lambda: self._command(name))
        if moment == "any":
            time.sleep(float(self.generator.uniform(0, 1.05 * self.seconds[name])))
        else:
            self._await_writing(process, before, int(self.generator.integers(len(paths))))
            time.sleep(float(self.generator.uniform(0, 0.006)))
        finished = os.waitpid(process, os.WNOHANG)[0] != 0
        after = time.monotonic() - began
        if not finished:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        files = {path.name: self._state(path) for path in paths}
        return Killed(name, moment, round(after, 3), finished, files, len(self._temporary() - before))

    def clean(self) -> tuple[int, int]:
        """Temporary files now, and after they have aged and another file is written."""
        from keras_compress.convert.files import write_atomic

        found = self._temporary()
        for path in found:
            os.utime(path, (0, 0))
        write_atomic(self._out / "another.tflite", b"another")
        return len(found), len(self._temporary())

    def _await_writing(self, process: int, before: set[Path], skipped: int) -> None:
        """Until a temporary file appears, the one after `skipped` others, or the process ends."""
        seen: set[Path] = set(before)
        while len(seen - before) <= skipped:
            seen |= self._temporary()
            if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return
            time.sleep(0.0002)

    def _temporary(self) -> set[Path]:
        with contextlib.suppress(FileNotFoundError):
            # `make_folder` tries the folder with a probe; what counts is what is being written.
            return {path for path in self._out.glob(TEMPORARY) if "probe" not in path.name}
        return set()

    def _state(self, path: Path) -> str:
        content = path.read_bytes() if path.exists() else b""
        if content == b"old " + path.name.encode():
            return "old"
        if content == self._new[path]:
            return "new"
        # Time stamps and measured times differ from run to run.
        try:
            if path.suffix == ".keras":
                with zipfile.ZipFile(path) as archive:
                    same = archive.testzip() is None and len(archive.namelist()) == 3
            elif path.suffix == ".json":
                same = set(json.loads(content)) == set(json.loads(self._new[path]))
            else:
                same = False
        except (ValueError, zipfile.BadZipFile) as error:
            return f"broken: {error}"
        return "new" if same else f"neither old nor new, {len(content)} bytes"

    def _command(self, name: str) -> int:
        from keras_compress.cli import main as cli

        return cli.main(["keras-compress", name, *self._commands[name][0]])

    @staticmethod
    def _fork(run: Callable[[], int]) -> int:
        process = os.fork()
        if process:
            return process
        code = 1
        try:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, 1)
            os.dup2(nothing, 2)
            code = run()
        finally:
            os._exit(code)

    @staticmethod
    def _wait(process: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _make_files(folder: Path) -> int:
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(64)]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(4, activation="softmax")])
    model.save(folder / "model.keras")
    generator = np.random.default_rng(0)
    np.savez(folder / "data.npz", x=generator.random((64, 8, 8, 1), np.float32), y=np.arange(64) % 4)
    return 0


def load_everything() -> None:
    """Imports what the commands need. No operation is run: TensorFlow's threads would not survive a fork."""
    import h5py  # noqa: F401
    import tensorflow  # noqa: F401

    import keras_compress.cli.commands
    import keras_compress.demo.demo  # noqa: F401


def main(arguments: Sequence[str]) -> None:
    """Arguments: number of `convert` runs, of `compress` runs, seed."""
    converts, compresses, seed = map(int, arguments)
    load_everything()
    with tempfile.TemporaryDirectory() as folder:
        killer = Killer(Path(folder), seed)
        for name, count in (("convert", converts), ("compress", compresses)):
            for number in range(count):
                killed = killer.kill(name, ("writing", "any")[number % 2])
                print(json.dumps({**asdict(killed), "whole": killed.whole}), flush=True)
        found, left = killer.clean()
        print(json.dumps({"seconds": killer.seconds, "leftovers": found, "leftovers_after_cleaning": left}), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    main(sys.argv[1:])
