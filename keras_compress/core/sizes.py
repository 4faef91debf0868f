"""Sizes of memory as people write them."""

from __future__ import annotations

import math
import re
from typing import Any

_UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "kib": 1024, "mib": 1024**2}


def size_bytes(size: Any, name: str) -> int:
    """Bytes of a size: a number of bytes, or text such as `"256kB"` (256,000 bytes) or `"256KiB"` (262,144).

    Args:
        size: The size.
        name: What messages call it.

    Raises:
        ValueError: For anything else, and for less than a byte.

    >>> size_bytes("256kB", "flash"), size_bytes("1.5 MiB", "flash"), size_bytes(1000, "flash")
    (256000, 1572864, 1000)
    """
    found = None
    if isinstance(size, str):
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kKmM]?i?[bB]?)", size.strip())
        if found is not None and found[2].lower() in _UNITS:
            size = float(found[1]) * _UNITS[found[2].lower()]
    number = isinstance(size, (int, float)) and not isinstance(size, bool)
    if not number or not math.isfinite(size) or size < 1:
        raise ValueError(f"Expected `{name}` as a number of bytes, or as 256kB or 256KiB. Received: {name}={size!r}")
    return int(size)
