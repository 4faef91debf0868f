"""What is made once for all processes of a test run: a demo, a training in a process of its own."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A copy of a folder that `make(folder)` fills; the first process that asks makes it, others wait and copy.

    pytest's own fixtures are made by each of its processes, and again where a test of another file came between.
    """
    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    made = root / f"{name}_once"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.is_dir():
            begun = factory.mktemp(name)
            make(begun)
            begun.rename(made)
    return Path(shutil.copytree(made, factory.mktemp(name) / "copy"))
