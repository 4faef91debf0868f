"""Ranges of the cell states of an LSTM that is unrolled: one for each step, and no wider than is of use.

A cell `c' = f c + n` grows over the steps, and its 8 bits are rounded twice at each: a range for the largest value of
all steps makes the first ones coarse, and all of them add up. What is read is `tanh(c)`, which is constant beyond a few
units; a cell that saturates there loses nothing until it comes back. Where that begins to cost, the data tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_compress.calibration.calibrate import MeasuredRange
from keras_compress.core import affine

_SPEC = affine.QuantSpec(symmetric=False, narrow_range=False)
_ROWS = 64
_PER_OCTAVE = 4
_SMALLEST_END = 1.0
# Of the end of the states, that of the parts that are kept: on equal grids a product with a gate of 1/256 steps would
# lie on a tie once in 256 times, which runtimes round in different ways.
_KEPT = 0.9871
Array = NDArray[np.float32]


class CellRange(MeasuredRange):
    """A range that remembers what it saw, up to 64 rows, until it is fitted (see `end_of_use`)."""

    watches = True

    def __init__(self, bits: int = 8, **kwargs: Any) -> None:
        self._seen: list[Array] = []
        super().__init__(bits, **kwargs)

    def observe(self, values: NDArray[Any], squares: NDArray[Any]) -> None:
        """Remember the first rows."""
        room = _ROWS - sum(map(len, self._seen))
        if room > 0:
            self._seen.append(np.asarray(values[:room], np.float32).copy())

    def taken(self) -> Array | None:
        """What was seen, `(rows, units)`, which is forgotten; `None` for nothing."""
        seen, self._seen = self._seen, []
        return np.concatenate(seen) if seen else None

    def cut(self, end: float, kept: bool = False) -> None:
        """Let the range end at `-end` and `end`, or right before them for the part of a state that is kept."""
        end = _KEPT * end if kept else end
        self.set_range(*(float(np.clip(value, -end, end)) for value in self.range()))


def end_of_use(kept: Sequence[Array], cells: Sequence[Array]) -> float:
    """Where the ranges of a cell's states should end, by the error of their tanh over all steps.

    The steps are gone through with 8 bits for both tensors of each, which are cut at the end that is tried.

    Args:
        kept: For each step `f c`, the part of the state that is kept, `(rows, units)`; of a ConvLSTM with places
            between.
        cells: For each step the new state `f c + n`.

    Returns:
        The end with the least error; infinite where no cut is better than none.
    """
    kept, cells = ([each.reshape(len(each), -1) for each in steps] for steps in (kept, cells))
    largest = max(float(np.abs(values).max()) for values in (*kept, *cells))
    count = int(np.floor(np.log2(max(largest / _SMALLEST_END, 1.0)) * _PER_OCTAVE))
    ends = _SMALLEST_END * 2.0 ** (np.arange(count, -1, -1) / _PER_OCTAVE)
    uncut = np.array([np.inf], np.float32)
    errors = [*_errors(kept, cells, uncut), *_errors(kept, cells, ends)]
    return float([np.inf, *ends][int(np.argmin(errors))])


def _errors(kept: Sequence[Array], cells: Sequence[Array], ends: NDArray[Any]) -> NDArray[np.float64]:
    """For each end the sum of the squared errors of tanh; the gates are taken as they were, whatever the states become.

    All ends at once: a step of one takes longer to begin than to compute.
    """
    total, ratio = np.zeros(len(ends)), np.float32(1.0)
    for part, cell in zip(kept, cells, strict=True):
        made = _rounded(_rounded(part * ratio, part, _KEPT * ends) + (cell - part), cell, ends)
        total += np.square(np.tanh(made) - np.tanh(cell)).reshape(len(ends), -1).sum(axis=1)
        ratio = np.divide(made, cell, out=np.ones(made.shape, np.float32), where=cell != 0)
    return total


def _rounded(values: Array, measured: Array, ends: NDArray[Any]) -> Array:
    """Values, `(rows, units)` for all ends or `(ends, rows, units)`, on 8-bit grids of what was measured, cut there."""
    lows, highs = (np.clip(end, -ends, ends) for end in (measured.min(), measured.max()))
    scales, zeros = (each.reshape(-1, 1, 1) for each in affine.affine_parameters(lows, highs, _SPEC))
    return np.asarray(affine.fake_quantize(values, scales, zeros, _SPEC))
