"""Room for graphs of many layers in a row: Keras walks through them by recursion, one call deep for each layer."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# 1,000 steps of an unrolled LSTM. Calls between Python functions take no room on the C stack.
_CALLS = 30_000
_lock = threading.Lock()
_users = 0
_before = 0


@contextmanager
def deep_graphs() -> Iterator[None]:
    """Python's limit of nested calls is high enough, until the last of all threads that asked for it is done."""
    global _users, _before  # noqa: PLW0603 (the limit is one for all threads)
    with _lock:
        if not _users:
            _before = sys.getrecursionlimit()
            sys.setrecursionlimit(max(_CALLS, _before))
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                sys.setrecursionlimit(_before)
