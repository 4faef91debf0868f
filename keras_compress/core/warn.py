"""Warnings that name the line of the user's program, however deep in the library they are given."""

from __future__ import annotations

import sys
import warnings


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """`warnings.warn`, at the first line outside this library, and outside Keras and TensorFlow, which may call it."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _is_ours(module: str) -> bool:
    return module.split(".")[0] in ("keras_compress", "keras", "tensorflow") or module == "contextlib"
