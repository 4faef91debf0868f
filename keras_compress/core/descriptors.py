"""File descriptors turned elsewhere for a while, by one thread at a time. Light: the command line loads it first."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

# Descriptors belong to the process. Two threads that turned them in turns would each restore what the other had made of
# them; one thread may turn them again inside, and restores in order.
_TURNING = threading.RLock()


@contextlib.contextmanager
def turned(descriptors: tuple[int, ...], sink: int) -> Iterator[None]:
    """What is written to some descriptors goes to the file behind `sink`; they are restored whatever happens.

    Another thread that wants the same waits. One that only prints meanwhile prints into the sink.

    Args:
        descriptors: Such as `(1, 2)`; one that is closed, as in a program without a console, is left alone.
        sink: Descriptor of an open file.
    """
    with _TURNING, contextlib.ExitStack() as stack:
        flush()
        for descriptor in descriptors:
            try:
                saved = os.dup(descriptor)
            except OSError:
                continue
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, descriptor)
            os.dup2(sink, descriptor)
        try:
            yield
        finally:
            flush()


def flush() -> None:
    """Write out what Python holds back of stdout and stderr."""
    for stream in (sys.stdout, sys.stderr):
        # Either may be missing, or closed.
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.flush()
