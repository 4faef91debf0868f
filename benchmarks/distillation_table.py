"""`docs/distillation.md` from the results of `distillation.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common import REPOSITORY, RESULTS

from keras_compress.convert.files import write_atomic


def write_page(path: Path) -> None:
    """Write the page from a file of results."""
    write_atomic(REPOSITORY / "docs" / "distillation.md", page(path.parent).encode())


def page(directory: Path = RESULTS) -> str:
    """The page, of the results in a folder."""
    content: dict[str, Any] = json.loads((directory / "distillation.json").read_text())
    return str(content["rows"])
