"""Writing a file so that a reader sees the old content or the new one, never a part."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from pathlib import Path


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
    try:
        _write_and_replace(Path(os.path.realpath(path)), content)
    except OSError as error:
        # Made from the number, so that it is the same subclass.
        raise OSError(error.errno, f"Could not write {os.fspath(path)}: {_cause(error)}") from error


def _write_and_replace(target: Path, content: bytes) -> None:
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    temporary = target.with_name(f".keras_compress-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
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
