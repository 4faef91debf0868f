"""Ctrl-C that is neither lost nor comes while something is cleaned up."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any


class _Ignored:
    """Whether Python has ignored a Ctrl-C since `interrupts_kept` was entered, and what belongs to the open blocks."""

    found = False
    blocks = 0
    before: Any = None
    lock = threading.Lock()


@contextlib.contextmanager
def interrupts_kept() -> Iterator[None]:
    """Raise a KeyboardInterrupt that Python ignores, as it does inside a destructor, when the block ends or `check`s.

    TensorFlow has destructors written in Python, and they run often: one Ctrl-C in a few would do nothing.
    The hook belongs to the process: the first of nested or concurrent blocks sets it, the last restores it.
    """
    with _Ignored.lock:
        if not _Ignored.blocks:
            _Ignored.before = sys.unraisablehook
            sys.unraisablehook = _keep
        _Ignored.blocks += 1
    try:
        yield
        check()
    finally:
        with _Ignored.lock:
            _Ignored.blocks -= 1
            if not _Ignored.blocks:
                sys.unraisablehook, _Ignored.before, _Ignored.found = _Ignored.before, None, False


def _keep(unraisable: Any) -> None:
    before = _Ignored.before
    if unraisable.exc_type is KeyboardInterrupt:
        _Ignored.found = True
    elif before is not None:
        before(unraisable)


def check() -> None:
    """Raise the KeyboardInterrupt that was ignored, if there was one."""
    if _Ignored.found and threading.current_thread() is threading.main_thread():
        _Ignored.found = False
        raise KeyboardInterrupt


@contextlib.contextmanager
def interrupts_delayed() -> Iterator[None]:
    """Ctrl-C waits until the block, a short one, has ended."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    waiting: list[tuple[int, Any]] = []
    signal.signal(signal.SIGINT, lambda number, frame: waiting.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if waiting:
            before(*waiting[0])


@contextlib.contextmanager
def temporary_folder() -> Iterator[str]:
    """A new folder that is gone when the block ends, however it ends."""
    folder = ""
    try:
        with interrupts_delayed():
            folder = tempfile.mkdtemp(prefix="keras_compress_")
        yield folder
    finally:
        with interrupts_delayed():
            shutil.rmtree(folder, ignore_errors=True)
