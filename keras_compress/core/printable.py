"""Names made harmless: those out of files for a terminal, users' own for TensorFlow."""

from __future__ import annotations

import re


def printable(text: str, keep: str = "") -> str:
    """Text with every character that could do something to a terminal replaced by its escape sequence.

    Control characters, invisible ones, those that turn the direction of writing, and halves of characters, which
    cannot even be written. A file's author decides how its tensors and layers are called.

    Args:
        text: Any text.
        keep: Such characters to leave as they are, such as line breaks.

    >>> printable("\\x1b[31mred"), printable("a b\\n", keep="\\n") == "a b\\n"
    ('\\\\x1b[31mred', True)
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def scope_name(name: str) -> str:
    """A name like this that TensorFlow takes for a scope: no spaces, no other alphabets."""
    return re.sub(r"[^A-Za-z0-9_.\\/>-]", "_", name).lstrip("_") or "operation"
