"""Writing a file so that a reader sees the old content or the new one, never a part."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TEMPORARY = ".keras_compress-"
# A temporary file that nobody has written to for so long was left by a process that was killed.
_LEFT_OVER_SECONDS = 3600.0


def write_atomic(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes `content` to `path`, whole or not at all.

    The bytes go to a temporary file in the same folder, which then takes the place of `path` in one step.
    When anything fails, or the user interrupts, the temporary file is removed and an older file stays. A process
    that is killed cannot remove its own, `.keras_compress-*`: the next write to the folder does so an hour later.

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
    _replace(path, lambda temporary: _save_new(temporary, model), ".keras")


def make_folder(path: str | os.PathLike[str]) -> Path:
    """A folder that files can be written to, made if it is not there.

    Raises:
        OSError: If it cannot be made or written to; the message names it.
    """
    folder = Path(path)
    probe = folder / f"{_TEMPORARY}probe-{secrets.token_hex(8)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _write_new(probe, b"")
        finally:
            probe.unlink(missing_ok=True)
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


def _save_new(path: Path, model: Any) -> None:
    model.save(path)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _remove_left_over(folder: Path) -> None:
    """Removes what killed processes left; another's that is being written is younger."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_TEMPORARY) and entry.name.endswith((".tmp", ".keras")):
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > _LEFT_OVER_SECONDS:
                        os.unlink(entry)


def _write_and_replace(target: Path, write: Callable[[Path], Any], suffix: str) -> None:
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    temporary = target.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}{suffix}")
    _remove_left_over(target.parent)
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
