"""Files to write that would take the place of something the user still wants: refused before any work."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

Name = str | os.PathLike[str]


def check_output(path: Name, ending: str, inputs: Mapping[str, Name | None] | None = None, name: str = "path") -> Path:
    """The path, where it is one that may be written.

    Args:
        path: File to write.
        ending: That its kind of file has, such as `".tflite"`; capital letters count the same.
        inputs: What is read, name -> file, `None` for one that was not given. The same file is found through links and
            however it is spelled.
        name: What messages call `path`.

    Raises:
        ValueError: For another ending, or a file that is read.
        IsADirectoryError: For a folder.
    """
    found = Path(path)
    if found.is_dir():
        raise IsADirectoryError(f"Expected {name} as a file such as model{ending}. Received: the folder {found}")
    if found.suffix.lower() != ending:
        raise ValueError(f"Expected {name} as a file that ends in {ending}. Received: {name}={os.fspath(path)}")
    check_not_read(found, inputs or {}, name)
    return found


def check_not_read(path: Name, inputs: Mapping[str, Name | None], name: str = "path") -> None:
    """Refuse to write a file that is read.

    Raises:
        ValueError: Naming both.
    """
    for key, given in inputs.items():
        if given is not None and _same(path, given):
            raise ValueError(
                f"Expected {name} to be another file than {key}, which would be lost. "
                f"Received: {os.fspath(path)}, and {key}={os.fspath(given)}"
            )


def _same(path: Name, other: Name) -> bool:
    with contextlib.suppress(OSError, ValueError):  # one of them is not there, or no path at all
        if os.path.samefile(path, other):
            return True
    with contextlib.suppress(OSError, ValueError):
        return os.path.realpath(path) == os.path.realpath(other)
    return False
