"""Keep TensorFlow's Python log out of the way of a notebook."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Only errors of TensorFlow's and absl's loggers pass; their levels are restored whatever happens.

    For functions that are traced anew for each model, on purpose: TensorFlow would warn of retracing.
    """
    loggers = [logging.getLogger("tensorflow"), logging.getLogger("absl")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
