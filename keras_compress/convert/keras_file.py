"""Loading a `.keras` file from a stranger: no code in it is run, and it cannot take all memory or time.

Keras's safe mode refuses code. What it does not bound is the model that a small configuration asks for: a layer of
10^12 weights, or a recurrent layer unrolled 10^9 times. Here the weights may not take much more than the file has
bytes, and the loading has a time limit.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

# Keras stores what is in the archive as it is. Somebody may have compressed it since, but not by more than this.
_MOST_EXPANSION = 200
_LEAST_LIMIT_BYTES = 1 << 28
# Variables that are not in the file, such as masks, and float32 for what the file has as float16.
_VARIABLES_PER_BYTE = 4
_LONGEST_CONFIG_BYTES = 1 << 26
_SECONDS, _BYTES_PER_SECOND, _CONFIG_BYTES_PER_SECOND = 60.0, 1e6, 1e4


def load_keras(path: str | os.PathLike[str], time_limit_s: float | None = None) -> keras.Model:
    """A `.keras` model, loaded in Keras's safe mode.

    Args:
        path: The file.
        time_limit_s: Longest time to load it, in seconds; by default a minute, and more for large files. It holds in
            the main thread of Linux and macOS.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no `.keras` file, holds what safe mode refuses, or needs more memory or time than its
            size explains. The message names the file.
    """
    path = Path(path)
    with open(path, "rb"):
        pass
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ValueError(f"Expected a Keras 3 model in a .keras file (`model.save('m.keras')`). Received: {path}")
    try:
        unpacked, config = _check_archive(path)
        seconds = time_limit_s or _SECONDS + unpacked / _BYTES_PER_SECOND + config / _CONFIG_BYTES_PER_SECOND
        limit = max(_LEAST_LIMIT_BYTES, _VARIABLES_PER_BYTE * unpacked)
        with _time_limit(seconds), tf.variable_creator_scope(_Budget(limit).create):
            return keras.models.load_model(path)
    except Exception as error:
        # What a broken file makes of Keras: KeyError, AttributeError, RecursionError, zlib.error, tf.errors, ...
        cause = str(error) or type(error).__name__
        raise ValueError(f"Expected a .keras file that loads in safe mode. Received: {path} ({cause})") from error


def _check_archive(path: Path) -> tuple[int, int]:
    """Bytes of all members and of the configuration."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        config = archive.getinfo("config.json").file_size
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > max(_LEAST_LIMIT_BYTES, _MOST_EXPANSION * path.stat().st_size):
        raise ValueError(f"its {path.stat().st_size:,} bytes would become {unpacked:,}")
    if config > _LONGEST_CONFIG_BYTES:
        raise ValueError(f"its configuration has {config:,} bytes")
    for entry in entries:
        if entry.filename.startswith(("/", "\\")) or ".." in Path(entry.filename.replace("\\", "/")).parts:
            raise ValueError(f"its member {entry.filename!r} lies outside the archive")
    return unpacked, config


class _Budget:
    """Counts the bytes of variables before they are made.

    Args:
        limit_bytes: The most there may be.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._left = self._limit = limit_bytes
        self._scratch = tf.Graph()

    def create(self, make: Callable[..., Any], **arguments: Any) -> Any:
        """A creator for `tf.variable_creator_scope`."""
        initial = arguments.get("initial_value")
        if callable(initial):
            self._left -= self._bytes(initial)
            if self._left < 0:
                raise ValueError(f"its variables need more than {self._limit:,} bytes, which its size does not explain")
        return make(**arguments)

    def _bytes(self, initial: Callable[[], Any]) -> int:
        # In a graph nothing is computed: only the shape is found.
        try:
            with self._scratch.as_default():
                value = tf.convert_to_tensor(initial())
        except RuntimeError:
            # A seed generator keeps its state in a variable, which only a function may read. Slower, so second.
            traced = tf.function(lambda: tf.convert_to_tensor(initial())).get_concrete_function()
            value = traced.structured_outputs
        known = value.shape.is_fully_defined()
        return math.prod(value.shape.as_list()) * value.dtype.size if known else self._limit + 1


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the body when it takes longer; elsewhere than in the main thread nothing happens."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(number: int, frame: Any) -> None:
        raise TimeoutError(f"it was not loaded in {seconds:g} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
