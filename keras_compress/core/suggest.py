"""What a user may have meant by a name that is none."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any


def did_you_mean(given: Any, known: Collection[str], synonyms: Mapping[str, str] | None = None) -> str:
    """`" (did you mean 'litert'?)"`, or nothing where no known name is near.

    Args:
        given: What the user wrote; anything but text is near to nothing.
        known: Names that there are.
        synonyms: Other words for some of them, in lower case with underscores.

    >>> did_you_mean("LQS", ["LSQ", "PWLQ"]), did_you_mean("tflite", [], {"tflite": "litert"}), did_you_mean(3, ["a"])
    (" (did you mean 'LSQ'?)", " (did you mean 'litert'?)", '')
    """
    if not isinstance(given, str):
        return ""
    plain = {_plain(name): name for name in known} | {_plain(name): meant for name, meant in (synonyms or {}).items()}
    near = difflib.get_close_matches(_plain(given), plain, 1, 0.6)
    return f" (did you mean {plain[near[0]]!r}?)" if near else ""


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")
