"""Makes the records of `golden.py` in processes of their own: TensorFlow's converter and runtimes can crash or hang."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path

from golden_records import Record, made

# A process begins anew after so many models, as TensorFlow forgets nothing.
BLOCK = 80
# For a model, and for a process to begin.
MOST_SECONDS, MOST_START_SECONDS = 240.0, 240.0
_READY = ""


def run(names: list[str], folder: Path, workers: int) -> Iterator[str]:
    """Write the records of models into a folder; yields each name when its record is there.

    Args:
        names: Of cases.
        folder: Of the records.
        workers: Processes at a time; 0 for none but this one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if workers == 0:
        for name in names:
            made(name).write(folder)
            yield name
        return
    left = [names[n : n + BLOCK] for n in range(0, len(names), BLOCK)]
    running: list[_Worker] = []
    try:
        while left or running:
            while left and len(running) < workers:
                running.append(_Worker(left.pop(0), folder))
            wait([worker.pipe for worker in running], timeout=1.0)
            for worker in list(running):
                yield from worker.finished()
                if worker.gone():
                    yield from worker.finished()
                    running.remove(worker)
                    if worker.names:
                        yield worker.lost()
                    if worker.names:
                        left.insert(0, worker.names)
    finally:
        for worker in running:
            worker.kill()


class _Worker:
    """A process that makes the records of a block of models."""

    def __init__(self, names: list[str], folder: Path) -> None:
        self.names, self._folder = list(names), folder
        self._since = time.monotonic()
        self._why, self._ready = "ended", False
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(names, folder, theirs), daemon=False)
        self._process.start()
        theirs.close()

    def finished(self) -> Iterator[str]:
        """Names whose records have come since the last call."""
        try:
            while self.pipe.poll():
                name = self.pipe.recv()
                self._since = time.monotonic()
                if name == _READY:
                    self._ready = True
                    continue
                self.names.remove(name)
                yield name
        except (EOFError, OSError):
            # Its end of the pipe closes with the process, which may take a moment longer.
            self._process.join(10)

    def gone(self) -> bool:
        """Whether the process has ended, or hung and was killed."""
        most = MOST_SECONDS if self._ready else MOST_START_SECONDS
        if self._process.is_alive() and time.monotonic() - self._since > most:
            self._why = f"hung for {most:.0f} s"
            self.kill()
        return not self._process.is_alive()

    def lost(self) -> str:
        """Record that the process ended on its first model left; returns its name.

        Raises:
            RuntimeError: It ended before it began, as each would.
        """
        if not self._ready:
            log = self._folder / "log"
            raise RuntimeError(f"Expected a process that converts. Received: one that {self._why}; see {log}")
        name = self.names.pop(0)
        message = f"the process {self._why}"
        if self._why == "ended":
            message += f" with exit code {self._process.exitcode}"
        Record(name, "lost", message).write(self._folder)
        return name

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def _work(names: list[str], folder: Path, pipe: Connection) -> None:
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import tensorflow as tf

    # Sums are the same whatever else the machine does.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    import golden_models  # noqa: F401

    pipe.send(_READY)
    for name in names:
        made(name).write(folder)
        pipe.send(name)
