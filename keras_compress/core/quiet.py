"""Keep TensorFlow's Python log, and warnings that say nothing to the user, out of the way. Of many threads at once."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator
from typing import ClassVar

# TensorFlow's converter logs to the root logger, which gives that a handler for ever.
_NAMES = ("", "tensorflow", "absl")
_QUIET = ("tensorflow", "absl")


class _Loggers:
    """How the process's loggers were before the first of the blocks that are open, and how many these are."""

    lock = threading.Lock()
    blocks = 0
    quiet_blocks = 0
    kept: ClassVar[list[tuple[logging.Logger, int, list[logging.Handler]]]] = []


# `warnings.catch_warnings` puts back the list of filters that it found, whatever another thread has made of it.
_FILTERING = threading.RLock()


@contextlib.contextmanager
def loggers_kept() -> Iterator[None]:
    """Levels and handlers of the root's, TensorFlow's and absl's loggers are afterwards as they were before.

    They belong to the process: the first of nested or concurrent blocks keeps them, the last restores them.
    """
    with _Loggers.lock:
        if not _Loggers.blocks:
            _Loggers.kept[:] = [(each, each.level, list(each.handlers)) for each in map(logging.getLogger, _NAMES)]
        _Loggers.blocks += 1
    try:
        yield
    finally:
        with _Loggers.lock:
            _Loggers.blocks -= 1
            if not _Loggers.blocks:
                _restore_levels()
                for logger, _, handlers in _Loggers.kept:
                    if logger.handlers != handlers:
                        logger.handlers[:] = handlers


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Only errors of TensorFlow's and absl's loggers pass; their levels are restored whatever happens.

    For functions that are traced anew for each model, on purpose: TensorFlow would warn of retracing.
    """
    with loggers_kept():
        with _Loggers.lock:
            _Loggers.quiet_blocks += 1
            for name in _QUIET:
                logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            with _Loggers.lock:
                _Loggers.quiet_blocks -= 1
                if not _Loggers.quiet_blocks:
                    _restore_levels()


def _restore_levels() -> None:
    for logger, level, _ in _Loggers.kept:
        if logger.level != level:
            logger.setLevel(level)


@contextlib.contextmanager
def ignored_warnings(message: str) -> Iterator[None]:
    """Warnings that match a regular expression are not shown, in one thread at a time."""
    with _FILTERING, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=message)
        yield
