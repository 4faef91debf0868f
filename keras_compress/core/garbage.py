"""Python's search for garbage, kept short."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def older_objects_apart() -> Iterator[None]:
    """What exists already is not searched for garbage meanwhile; also a decorator.

    TensorFlow and Keras hold some hundred thousand objects, and whoever makes thousands of layers has them searched
    again and again: a tenth of the time of converting a network.
    """
    if gc.get_freeze_count():
        yield  # The program has put objects apart itself, or a call around this one.
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
