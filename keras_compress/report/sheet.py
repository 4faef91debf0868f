"""Tables that fit the terminal: columns that find no place beside the others stand in a further table below."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.cells import cell_len
from rich.jupyter import JupyterMixin
from rich.markup import escape
from rich.table import Table

from keras_compress.core.printable import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions

# The names of rows take this share of the width at most, before they are broken at their separators.
_NAMES_SHARE = 0.35
_FEWEST_CHARACTERS = 12


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        heading: Its head; may have several lines.
        cells: One for each row; may have several lines. Taken as they are: no markup.
        footer: Below them.
        text: Whether it is words, which begin at the left, or figures, which end at the right.
    """

    heading: str
    cells: Sequence[str]
    footer: str = ""
    text: bool = False

    @property
    def width(self) -> int:
        """Characters of its longest line."""
        return max(cell_len(line) for cell in (self.heading, *self.cells, self.footer) for line in cell.split("\n"))


class Sheet(JupyterMixin):
    """A table that is shown as several, one below the other, where it is wider than the terminal.

    The first column, the names of the rows, stands in each. Figures are never broken; names are broken behind `/`, `_`
    and the like.

    Args:
        columns: The names first.
        title: Line above.
    """

    def __init__(self, columns: Sequence[Column], title: str | None = None) -> None:
        if len({len(column.cells) for column in columns}) != 1:
            raise ValueError("Expected columns of one length. Received: " + str([len(c.cells) for c in columns]))
        self.columns = [_harmless(column) for column in columns]
        self.title = title

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        for number, (names, figures) in enumerate(self._parts(options.max_width)):
            title = None if self.title is None or number else escape(printable(self.title))
            shape: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": 0, "pad_edge": False}
            shown = [names, *figures]
            table = Table(title=title, show_footer=any(column.footer for column in shown[1:]), **shape)
            for column in shown:
                justify: Any = "left" if column.text else "right"
                table.add_column(
                    escape(column.heading), escape(column.footer), justify=justify, no_wrap=True, overflow="fold"
                )
            for row in zip(*(column.cells for column in shown), strict=True):
                table.add_row(*map(escape, row))
            yield table

    def _parts(self, width: int) -> Iterator[tuple[Column, list[Column]]]:
        """Columns that stand beside each other, with the names in front of them."""
        first, *others = self.columns
        # The box has a character at each side, and one between columns.
        free = width - 2
        limit = max(_FEWEST_CHARACTERS, int(_NAMES_SHARE * width))
        if first.width + sum(1 + column.width for column in others) > free and first.width > limit:
            cells = [broken(cell, limit) for cell in first.cells]
            first = Column(first.heading, cells, broken(first.footer, limit), first.text)
        part: list[Column] = []
        for column in others:
            if part and first.width + sum(1 + c.width for c in (*part, column)) > free:
                yield first, part
                part = []
            part.append(column)
        if part or not others:
            yield first, part


def _harmless(column: Column) -> Column:
    """The column without what a terminal obeys."""
    cells = [printable(cell, "\n") for cell in column.cells]
    return Column(printable(column.heading, "\n"), cells, printable(column.footer, "\n"), column.text)


def broken(name: str, width: int) -> str:
    """A name in lines of at most `width` characters, broken behind its separators where there are any.

    >>> broken("digits_cnn/stem/convolution", 12).split("\\n")
    ['digits_cnn/', 'stem/', 'convolution']
    """
    lines = [""]
    for piece in re.findall(r"[^/;:_. -]*[/;:_. -]|[^/;:_. -]+", name.replace("\n", " ")):
        if lines[-1] and cell_len(lines[-1] + piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
        while cell_len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return "\n".join(line.rstrip() for line in lines)
