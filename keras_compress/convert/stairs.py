"""The integers in front of a staircase, so that its thresholds stay where they were trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_compress.convert.final_grid import as_float32
from keras_compress.quantizers.activation import FixedGrid

# Beyond its outermost thresholds a staircase is constant: this share of their distance is enough, or this much.
_MARGIN = 1 / 8
_MARGIN_OF_ONE = 1.0
# Steps that are tried: the finest, and up to a half more.
_STEPS = 1.0 + np.linspace(0.0, 0.5, 1001)


def around(thresholds: Sequence[float]) -> tuple[FixedGrid, float]:
    """The 8-bit grid that thresholds are told apart on best, and what to add to the values in front of it.

    Rounding moves a threshold to the middle between two integers. So of many steps the one is taken with which all
    thresholds, moved together, come closest to such middles: exactly, where there are one or two or they are evenly
    spaced.

    Args:
        thresholds: Ascending.

    >>> grid, offset = around([-0.5, 0.5])
    >>> [(t + offset) / grid.scale % 1 for t in (-0.5, 0.5)]
    [0.5, 0.5]
    """
    at = np.asarray(thresholds, np.float64)
    margin = _MARGIN * (at[-1] - at[0]) or _MARGIN_OF_ONE
    low, high = min(at[0] - margin, 0.0), max(at[-1] + margin, 0.0)
    steps = (high - low) / 254 * _STEPS
    if (distance := at[-1] - at[0]) > 0:
        # The outermost ones are a whole number of steps apart.
        steps = distance / np.unique(np.maximum(np.floor(distance / steps), 1.0))[::-1]
    # The shortest arc, of a circle of one step, that holds all: it ends where the largest gap begins.
    fractions = np.sort(at / steps[:, np.newaxis] % 1.0, axis=1)
    gaps = np.diff(np.concatenate([fractions, fractions[:, :1] + 1.0], axis=1))
    best = int(gaps.max(axis=1).round(9).argmax())
    gap, step = int(gaps[best].argmax()), as_float32(steps[best])
    start, length = fractions[best, (gap + 1) % at.size], 1.0 - gaps[best, gap]
    offset = ((0.5 - start - length / 2) % 1.0) * step
    return FixedGrid(step, int(np.round(-127 - low / step))), float(offset)
