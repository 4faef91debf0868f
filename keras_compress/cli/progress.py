"""The line that shows how far a command is."""

from __future__ import annotations

import sys
from typing import Any

import keras

from keras_compress.core.printable import printable
from keras_compress.core.progress import ProgressLine


class CommandLine(ProgressLine):
    """The progress line of a whole command; where none is drawn, a plain line on stderr for each piece of work.

    Args:
        total: Pieces of work in all, in any unit: training batches and what is said to `advance`.
    """

    def __init__(self, total: int) -> None:
        super().__init__("", total)

    def begin(self, what: str) -> None:
        """Say what is being done from now on."""
        self.describe(what)
        if not self.drawn:
            print(printable(what), file=sys.stderr)

    def callback(self, what: str, epochs: int) -> keras.callbacks.Callback:
        """A callback that moves the bar with every training batch."""
        return _Batches(self, what, epochs)


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
