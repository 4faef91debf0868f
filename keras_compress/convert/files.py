"""Writing a file so that a reader sees the old content or the new one, never a part."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomic(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes `content` to `path`, whole or not at all.

    The bytes go to a temporary file in the same folder, which then takes the place of `path` in one step.
    When anything fails, or the user interrupts, the temporary file is removed and an older file stays.

    Args:
        path: The file to write; a symbolic link is followed. Its folder must exist.
        content: All its bytes.

    Raises:
        OSError: The folder is missing (`FileNotFoundError`) or not writable (`PermissionError`), `path` is a
            folder (`IsADirectoryError`), the disk is full, ...; the message names `path` and the cause.
        TypeError: `content` is not bytes.
    """
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise TypeError(f"Expected content as bytes. Received: {type(content).__name__}")
    _replace(path, lambda temporary: _write_new(temporary, content), ".tmp")


def save_keras_atomic(model: Any, path: str | os.PathLike[str]) -> None:
    """Saves a Keras model as a `.keras` file, whole or not at all; see `write_atomic`.

    Args:
        model: The Keras model.
        path: The file to write, ending in `.keras`. Its folder must exist.

    Raises:
        OSError: As `write_atomic`.
        ValueError: For another ending.
    """
    if Path(path).suffix != ".keras":
        raise ValueError(f"Expected a path that ends in .keras. Received: {os.fspath(path)}")
    _replace(path, model.save, ".keras")


def make_folder(path: str | os.PathLike[str]) -> Path:
    """A folder that files can be written to, made if it is not there.

    Raises:
        OSError: If it cannot be made or written to; the message names it.
    """
    folder = Path(path)
    probe = folder / f".keras_compress-{secrets.token_hex(8)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_new(probe, b"")
        probe.unlink()
    except OSError as error:
        cause = "a file is in its place" if isinstance(error, FileExistsError) else error.strerror
        raise OSError(error.errno, f"Could not write to the folder {folder}: {cause}") from error
    return folder


def _replace(path: str | os.PathLike[str], write: Callable[[Path], Any], suffix: str) -> None:
    try:
        _write_and_replace(Path(os.path.realpath(path)), write, suffix)
    except OSError as error:
        # Made from the number, so that it is the same subclass.
        raise OSError(error.errno, f"Could not write {os.fspath(path)}: {_cause(error)}") from error


def _write_new(path: Path, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _write_and_replace(target: Path, write: Callable[[Path], Any], suffix: str) -> None:
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    temporary = target.with_name(f".keras_compress-{secrets.token_hex(8)}{suffix}")
    try:
        write(temporary)
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException:
        # BaseException, for KeyboardInterrupt; suppress, so that the first failure is the one reported.
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _cause(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "its folder does not exist"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, NotADirectoryError):
        return "what should be its folder is a file"
    return error.strerror or type(error).__name__
