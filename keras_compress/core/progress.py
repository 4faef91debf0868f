"""One line that tells how far long work is: on a terminal's stderr, or in a notebook. Elsewhere nothing is shown.

Keras's own switch, `keras.config.disable_interactive_logging()`, turns it off, as it does Keras's progress bars.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, Protocol, TypeVar

import keras

from keras_compress.core import interrupts
from keras_compress.core.printable import printable

# Work that is done sooner than this is not worth a line.
DELAY_SECONDS = 1.0
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Line = TypeVar("_Line", bound="ProgressLine")


class _Open(threading.local):
    """The lines that this thread is inside of, the outermost first."""

    def __init__(self) -> None:
        self.lines: list[ProgressLine] = []


_OPEN = _Open()
# Held by the line that is drawn: two threads cannot share one row of a terminal.
_DRAWING = threading.Lock()


class ProgressLine:
    """Context manager: while it is open, one line shows what is being done, how far it is, and for how long.

    A line inside another draws nothing of its own, it adds its words to the outer one's.

    Args:
        what: What is being done, such as `"converting"`.
        total: Pieces of work in all, where that is known.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what = what
        self._words, self._total, self._done = "", total, 0
        self._outer: ProgressLine | None = None
        self._inner: ProgressLine | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self: _Line) -> _Line:
        if _OPEN.lines:
            self._outer = _OPEN.lines[-1]
            self._outer._inner = self
        _OPEN.lines.append(self)
        view = None if self._outer else _view()
        if view is not None and _DRAWING.acquire(blocking=False):
            context = contextvars.copy_context()  # a notebook's cell is known by it
            self._thread = threading.Thread(target=context.run, args=(self._draw, view()), daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self in _OPEN.lines:
            del _OPEN.lines[_OPEN.lines.index(self) :]
        if self._outer is not None:
            self._outer._inner = None
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            _DRAWING.release()

    @property
    def drawn(self) -> bool:
        """Whether this line is drawn, once the work has taken long enough."""
        return self._thread is not None

    def step(self, words: str, total: int | None = None) -> None:
        """Say what is being done from now on, and count its pieces from 0."""
        self._words, self._total, self._done = words, total, 0

    def describe(self, words: str) -> None:
        """Change the words and go on counting."""
        self._words = words

    def advance(self, amount: int = 1) -> None:
        """Count pieces of work that are done."""
        self._done += amount

    def text(self) -> str:
        """The words of this line and of those inside it."""
        inner = self._inner
        parts = (self.what, self._words, inner.text() if inner is not None else "")
        # Names of layers, stages and files are among the words.
        return printable(": ".join(filter(None, parts)))

    def count(self) -> tuple[int, int | None]:
        """`(done, total)` of the outermost line that knows its total, or of the innermost."""
        inner = self._inner
        return (self._done, self._total) if self._total is not None or inner is None else inner.count()

    def _draw(self, view: _View) -> None:
        started = time.monotonic()
        # What cannot be drawn must not stop the work.
        with contextlib.suppress(Exception), contextlib.closing(view):
            if self._ended.wait(DELAY_SECONDS):
                return
            view.open()
            while not self._ended.wait(view.interval_seconds):
                view.draw(self.text(), *self.count(), time.monotonic() - started)
            view.finish(self.what, time.monotonic() - started)


def shown(what: str) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """Decorator: the function's calls are lines."""

    def decorate(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        @functools.wraps(function)
        def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            with interrupts.interrupts_kept(), ProgressLine(what):
                return function(*args, **kwargs)

        return run

    return decorate


def step(what: str, total: int | None = None) -> None:
    """`ProgressLine.step` of the innermost open line of this thread, if there is one."""
    interrupts.check()
    if _OPEN.lines:
        _OPEN.lines[-1].step(what, total)


def advance(amount: int = 1) -> None:
    """`ProgressLine.advance` of the innermost open line of this thread, if there is one."""
    interrupts.check()
    if _OPEN.lines:
        _OPEN.lines[-1].advance(amount)


class _View(Protocol):
    """Where a line is drawn, from its own thread."""

    interval_seconds: float

    def open(self) -> None:
        """The work takes so long that it is worth a line."""

    def draw(self, text: str, done: int, total: int | None, seconds: float) -> None:
        """Show the line as it is now."""

    def finish(self, what: str, seconds: float) -> None:
        """The work has ended, after it was open."""

    def close(self) -> None:
        """Give everything back, whether it was open or not."""


def _view() -> Callable[[], _View] | None:
    """What draws a line here; `None` where nobody would see it, or where Keras's progress bars are turned off."""
    if not keras.config.is_interactive_logging_enabled():
        return None
    if _in_notebook():
        return _Notebook
    try:
        seen = sys.stderr.isatty() and sys.stderr.fileno() >= 0 and os.environ.get("TERM") != "dumb"
    except (AttributeError, OSError, ValueError):  # no stderr, no file behind it, or a closed one
        return None
    return _Terminal if seen else None


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, "kernel")


class _Terminal:
    """A line that is wiped out when the work has ended."""

    interval_seconds = 0.1

    def __init__(self) -> None:
        # A descriptor of its own: the converter's log is captured by turning descriptors 1 and 2 elsewhere.
        self._file = open(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding, errors="replace")  # noqa: SIM115

    def open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
        self._progress = Progress(
            *columns,
            console=Console(file=self._file, force_terminal=True),
            transient=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=None)
        self._progress.start()

    def draw(self, text: str, done: int, total: int | None, seconds: float) -> None:
        counted = text if total is not None or not done else f"{text} {done:,}"
        self._progress.update(self._task, description=counted, completed=done, total=total, refresh=True)

    def finish(self, what: str, seconds: float) -> None:
        self._progress.stop()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


class _Notebook:
    """An output of the cell that is drawn over and over, and tells how long the work took when it has ended."""

    interval_seconds = 0.5

    def open(self) -> None:
        from IPython.display import display

        handle = display({"text/plain": ""}, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        self._handle = handle

    def draw(self, text: str, done: int, total: int | None, seconds: float) -> None:
        counted = f" {done:,}" if done else ""
        self._say(f"{text}{counted}{f'/{total:,}' if counted and total else ''}, {seconds:.0f} s")

    def finish(self, what: str, seconds: float) -> None:
        self._say(f"{what}: {seconds:.1f} s")

    def close(self) -> None:
        pass

    def _say(self, text: str) -> None:
        self._handle.update({"text/plain": text}, raw=True)
