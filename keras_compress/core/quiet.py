"""Keep TensorFlow's Python log, and warnings that say nothing to the user, out of the way. Of many threads at once."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator

# Levels belong to the process: the first block that begins keeps them, the last that ends restores them.
_LOCK = threading.Lock()
_KEPT: list[tuple[logging.Logger, int]] = []
_OPEN: list[object] = []
# `warnings.catch_warnings` puts back the list of filters that it found, whatever another thread has made of it.
_FILTERING = threading.RLock()


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Only errors of TensorFlow's and absl's loggers pass; their levels are restored whatever happens.

    For functions that are traced anew for each model, on purpose: TensorFlow would warn of retracing.
    """
    mark = object()
    with _LOCK:
        if not _OPEN:
            _KEPT[:] = [(logger, logger.level) for logger in map(logging.getLogger, ("tensorflow", "absl"))]
        _OPEN.append(mark)
        for logger, _ in _KEPT:
            logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        with _LOCK:
            _OPEN.remove(mark)
            for logger, level in [] if _OPEN else _KEPT:
                logger.setLevel(level)


@contextlib.contextmanager
def ignored_warnings(message: str) -> Iterator[None]:
    """Warnings that match a regular expression are not shown, in one thread at a time."""
    with _FILTERING, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=message)
        yield
