"""The MinMaxSketch: small integers by key in fewer cells than keys, never larger than they were."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from keras_compress.gradients.packing import Integers

Cells = NDArray[np.uint16]


class MinMaxSketch:
    """Rows of cells; in each row, hashing gives a key a cell.

    **Insert** each of the key's cells becomes the least of itself and the index. **Query** the largest of the key's
    cells: each is at most the index that was inserted, so what comes back is never too large.

    Args:
        cells: Shape `(rows, bins)`, both 1 at least; see `empty`.
        seed: Of the hash functions.

    **Reference**: Jiang et al., "SketchML" (2018), section 3.3.

    >>> sketch = MinMaxSketch.empty(2, 8, highest=15, seed=0)
    >>> sketch.insert(np.array([3, 70_000]), np.array([2, 9]))
    >>> sketch.query(np.array([3])).tolist()
    [2]
    """

    def __init__(self, cells: Cells, seed: int) -> None:
        self.cells, self._seed = cells, seed

    @classmethod
    def empty(cls, rows: int, bins: int, highest: int, seed: int) -> MinMaxSketch:
        """A sketch for indices from 0 to `highest`."""
        return cls(np.full((rows, bins), highest, np.uint16), seed)

    def insert(self, keys: Integers, indices: Integers) -> None:
        """Insert the index of each key."""
        for row in range(len(self.cells)):
            np.minimum.at(self.cells[row], self._places(keys, row), indices.astype(np.uint16))

    def query(self, keys: Integers) -> Cells:
        """The index of each key, or a smaller one."""
        found: Cells = self.cells[0][self._places(keys, 0)]
        for row in range(1, len(self.cells)):
            np.maximum(found, self.cells[row][self._places(keys, row)], out=found)
        return found

    def _places(self, keys: Integers, row: int) -> NDArray[np.int64]:
        """Multiply-shift hashing: the upper 32 bits of `a key + b`, a odd, spread over the bins."""
        factor, offset = np.random.default_rng([self._seed, row]).integers(0, 2**63, 2, np.uint64)
        hashed = (keys.astype(np.uint64) * (factor | np.uint64(1)) + offset) >> np.uint64(32)
        places: NDArray[np.int64] = ((hashed * np.uint64(self.cells.shape[1])) >> np.uint64(32)).astype(np.int64)
        return places
