"""Results as a prompt and a notebook show them: a few lines, whatever they hold."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from keras_compress.core.printable import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

TEXT_WIDTH = 120
_LONGEST_CELL = 200
_MOST_NAMES = 3
Row = tuple[str, str]


class Shown:
    """Base of a result that is shown by a title and a few rows: text for a prompt, a table for a notebook.

    A dataclass needs `repr=False`. Names may come out of files: nothing in them reaches a terminal, or is taken for
    HTML.
    """

    def shown(self) -> tuple[str, Sequence[Row]]:
        """A title, and rows of a label and what there is to say; one that says nothing is left out."""
        raise NotImplementedError(f"{type(self).__name__} must implement `shown()`.")

    def __repr__(self) -> str:
        title, rows = self._harmless()
        wide = max((len(label) for label, _ in rows), default=0)
        return "\n".join([title, *(f"  {label:<{wide}}  {text}" for label, text in rows)])

    def _repr_html_(self) -> str:
        title, rows = self._harmless()
        cells = "".join(
            f'<tr><th style="text-align: left">{html.escape(label)}</th>'
            f'<td style="text-align: left">{html.escape(text)}</td></tr>'
            for label, text in rows
        )
        return f"<table><caption>{html.escape(title)}</caption>{cells}</table>"

    def _harmless(self) -> tuple[str, list[Row]]:
        title, rows = self.shown()
        return _cut(title), [(_cut(label), _cut(text)) for label, text in rows if text]


def _cut(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _LONGEST_CELL else text[: _LONGEST_CELL - 3] + "..."


def names(listed: Iterable[str], attribute: str) -> str:
    """The first few of some names, and where the others are.

    >>> names(["a", "b", "c", "d"], ".rows")
    'a; b; c; and 1 more in .rows'
    """
    found = list(listed)
    more = [f"and {len(found) - _MOST_NAMES} more in {attribute}"] if len(found) > _MOST_NAMES else []
    return "; ".join([*found[:_MOST_NAMES], *more])


def columns(rows: Sequence[Sequence[str]], ruled: bool = False) -> list[str]:
    """Rows of cells as lines of text, each column as wide as its widest cell.

    Args:
        rows: The headings first.
        ruled: Draw a line under them.

    >>> columns([("layer", "bits"), ("convolution", "4")], ruled=True)
    ['layer        bits', '-----------  ----', 'convolution  4']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = [["-" * width for width in widths]] if ruled else []
    lines = [rows[0], *rule, *rows[1:]]
    return ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]


def text_console() -> Console:
    """A console whose text is in `text_of`'s form and goes to its `file`, a `StringIO`."""
    from rich.console import Console

    # In a notebook, rich would show the text there and leave the file empty.
    return Console(file=io.StringIO(), width=TEXT_WIDTH, color_system=None, force_jupyter=False)


def text_of(table: RenderableType) -> str:
    """A rich table as text without colours, 120 characters wide."""
    console = text_console()
    console.print(table)
    return written_to(console)


def written_to(console: Console) -> str:
    """What a `text_console` was given."""
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]
