"""A flatbuffer builder that writes equal tables, vectors and strings once.

The format allows it: an offset says where a table or vector is, and several may say the same. Readers notice nothing.
An unrolled layer has the same shapes, grids, settings and lists of operands at each step.
"""

from __future__ import annotations

from typing import Any

import flatbuffers

# Buffers of constants are aligned so; those that are equal are one already.
_OF_CONSTANTS = 16


class SharingBuilder(flatbuffers.Builder):
    """`flatbuffers.Builder`; what it has written before, it refers to (names are the library's)."""

    def __init__(self, room: int) -> None:
        super().__init__(room)
        self._written: dict[Any, int] = {}
        # Where the vector at hand begins, and its element; `None` where it is not to be shared.
        self._vector: tuple[int, int, int] | None = None
        self._table = 0
        # Where references of the table at hand are, and to what.
        self._references: list[tuple[int, int]] = []

    def StartVector(self, size: int, count: int, alignment: int) -> int:  # noqa: N802
        """As the library's."""
        self._vector = None if alignment == _OF_CONSTANTS else (self.Offset(), size, alignment)
        return int(super().StartVector(size, count, alignment))

    def EndVector(self) -> int:  # noqa: N802
        """The vector, or an equal one before it; not those of references, which say how far something is."""
        count, vector = self.vectorNumElems, self._vector
        offset = int(super().EndVector())
        if vector is None:
            return offset
        start, size, alignment = vector
        content = bytes(self.Bytes[self.Head() : self.Head() + 4 + size * count])
        return self._once(("vector", size, alignment, content), start, offset)

    def CreateString(self, text: Any, *coding: str) -> int:  # noqa: N802
        """The string, or an equal one before it."""
        key = "string", text, coding
        if key not in self._written:
            self._vector = None
            self._written[key] = int(super().CreateString(text, *coding))
        return self._written[key]

    def PrependUOffsetTRelative(self, target: int) -> None:  # noqa: N802
        """As the library's, remembered."""
        super().PrependUOffsetTRelative(target)
        self._vector = None
        self._references.append((self.Offset(), target))

    def StartObject(self, fields: int) -> None:  # noqa: N802
        """As the library's."""
        super().StartObject(fields)
        self._table, self._references = self.Offset(), []

    def EndObject(self) -> int:  # noqa: N802
        """The table, or an equal one before it: the same fields, and references to the same."""
        end, head, start = self.Offset(), self.Head(), self._table
        body = bytearray(self.Bytes[head : head + end - start])
        references = tuple((end - place, target) for place, target in self._references)
        for place, _ in references:
            body[place : place + 4] = bytes(4)
        places: Any = self.current_vtable
        # A field that was written last is 0 away, and there all the same.
        fields = tuple(None if place == 0 else end - place for place in places)
        key = "table", fields, bytes(body), references
        return self._once(key, start, self._written.get(key) or int(super().EndObject()))

    def _once(self, key: Any, start: int, offset: int) -> int:
        """What was written first; anything behind `start` is taken back if that is not it."""
        first = self._written.setdefault(key, offset)
        if first <= start:
            self.head = len(self.Bytes) - start
            self.nested, self.current_vtable = False, None
        return first
