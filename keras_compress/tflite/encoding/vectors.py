"""Constants that are made of few different vectors: a codebook, and for each vector a code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Longest vectors that are looked for.
LONGEST = 64
# From so many different vectors on, codes have two bytes; beyond the second number there is no type for them.
BYTE_CODES, MOST_CODES = 256, 32_768
# Vectors among which it is seen first whether they are few, and the share of different ones from which they are not:
# of the largest codebook there is, 94 % are.
TRIED, MANY = 4096, 0.99


@dataclass(frozen=True)
class CodedVectors:
    """A constant as a codebook and codes.

    Attributes:
        codewords: `(number, size)`.
        codes: For each vector of the constant, one behind the other, the number of its codeword.
        shape: Of the constant with its channels in front of its places.
        places_last: Whether the constant has its axes in another order, `(0, 2, 3, 1)` of `shape`.
    """

    codewords: NDArray[np.int8]
    codes: NDArray[np.int64]
    shape: tuple[int, ...]
    places_last: bool

    @property
    def stored_codes(self) -> NDArray[Any]:
        """Codes as they are stored: of 129 to 256 codewords, less 128."""
        if len(self.codewords) > BYTE_CODES:
            return self.codes.astype(np.int16)
        return (self.codes - self.offset).astype(np.int8)

    @property
    def offset(self) -> int:
        """What is added to a stored code."""
        return 128 if BYTE_CODES // 2 < len(self.codewords) <= BYTE_CODES else 0

    @property
    def bytes(self) -> int:
        """Of codebook and codes."""
        return int(self.codewords.nbytes + self.stored_codes.nbytes)


def coded(values: NDArray[np.int8]) -> CodedVectors | None:
    """The form of the fewest bytes, `None` where none has fewer than the values.

    Of a convolution's weight, vectors run along the places of one input channel, then along the channels, or along the
    channels of one place.

    >>> found = coded(np.tile(np.int8([[1, 2, 3, 4], [5, 6, 7, 8]]), (16, 1)).reshape(16, 8))
    >>> found.codewords.tolist(), found.codes.tolist()
    ([[1, 2, 3, 4, 5, 6, 7, 8]], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    """
    layouts: list[tuple[NDArray[np.int8], bool]] = [(values, False)]
    if values.ndim == 4 and values.shape[1] * values.shape[2] > 1:
        layouts.insert(0, (np.ascontiguousarray(values.transpose(0, 3, 1, 2)), True))
    best: CodedVectors | None = None
    for moved, places_last in layouts:
        flat = np.ascontiguousarray(moved).reshape(-1)
        row = flat.size // moved.shape[0] if moved.shape[0] > 1 else flat.size
        for size in (n for n in range(2, LONGEST + 1) if row % n == 0):
            found = _of_size(flat, size, moved.shape, places_last, values.nbytes if best is None else best.bytes)
            best = best if found is None else found
    return best


def _of_size(
    flat: NDArray[np.int8], size: int, shape: tuple[int, ...], places_last: bool, most: int
) -> CodedVectors | None:
    """Vectors of a size, where they take fewer than `most` bytes."""
    rows = flat.reshape(-1, size).view(f"V{size}").reshape(-1)
    # Codewords of a part alone may be too many.
    different = len(np.unique(rows[:TRIED]))
    if different * size + len(rows) >= most or (len(rows) >= TRIED and different >= MANY * TRIED):
        return None
    codewords, codes = np.unique(rows, return_inverse=True)
    if len(codewords) > MOST_CODES:
        return None
    found = CodedVectors(codewords.view(np.int8).reshape(-1, size), codes.reshape(-1), tuple(shape), places_last)
    return found if found.bytes < most else None
