"""One line that shows how far a long command is."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from keras_compress.core.printable import printable


class ProgressLine:
    """A progress line on stderr; where that is no terminal, a plain line for each piece of work.

    Args:
        total: Pieces of work in all, in any unit: training batches and what is said to `advance`.
        console: Where to write; stderr by default.
    """

    def __init__(self, total: int, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
        hidden = not self._console.is_terminal
        self._progress = Progress(*columns, console=self._console, transient=True, disable=hidden)
        self._task = self._progress.add_task("starting", total=total)

    def __enter__(self) -> ProgressLine:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, what: str) -> None:
        """Say what is being done from now on."""
        what = printable(what)
        self._progress.update(self._task, description=what)
        if not self._console.is_terminal:
            self._console.print(what, markup=False, highlight=False)

    def advance(self, amount: int) -> None:
        """Move the bar."""
        self._progress.advance(self._task, amount)

    def callback(self, what: str, epochs: int) -> keras.callbacks.Callback:
        """A callback that moves the bar with every training batch."""
        return _Batches(self, what, epochs)

    def describe(self, what: str) -> None:
        """Change the words on the terminal's line only."""
        self._progress.update(self._task, description=printable(what))


class _Batches(keras.callbacks.Callback):
    def __init__(self, line: ProgressLine, what: str, epochs: int) -> None:
        super().__init__()
        self._line = line
        self._what = what
        self._epochs = epochs

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._line.advance(1)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._line.describe(f"{self._what} {epoch + 1}/{self._epochs}")
