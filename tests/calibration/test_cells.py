"""Ranges of cell states, beside a recurrence in float64."""

import numpy as np
import pytest

from keras_compress.calibration.cells import CellRange, end_of_use


def recurrence(forget, added):
    """`kept` and `cells` of `c' = f c + n`, one array for each step."""
    kept, cells, cell = [], [], np.zeros_like(added[0])
    for f, n in zip(forget, added, strict=True):
        kept.append(np.float32(f * cell))
        cell = f * cell + n
        cells.append(np.float32(cell))
    return kept[1:], cells[1:]


def test_cells_that_only_grow_end_where_tanh_does():
    rng = np.random.default_rng(0)
    slow = rng.uniform(-0.05, 0.05, (60, 32, 8))
    fast = np.where(np.arange(8) < 2, 0.9, 0.0) + slow
    end = end_of_use(*recurrence(np.ones((60, 32, 8)), fast))
    assert 2 < end < 6  # two of eight units grow to 54, and tanh(3) is 0.995


def test_cells_that_come_back_keep_their_range():
    # Up to 20 and down again to 0: a cell that ends at 6 is at -14 then.
    added = np.concatenate([np.full((20, 4, 4), 1.0), np.full((20, 4, 4), -1.0)])
    end = end_of_use(*recurrence(np.ones((40, 4, 4)), added))
    assert end > 18


def test_a_range_is_cut_and_what_it_saw_is_forgotten():
    quantizer = CellRange()
    for _ in range(3):
        quantizer.observe(np.ones((30, 5), np.float32), np.zeros(0))
    quantizer.set_range(-2.0, 7.0)
    quantizer.cut(4.0)
    assert quantizer.range() == pytest.approx((-2.0, 4.0))
    quantizer.cut(3.0, kept=True)
    low, high = quantizer.range()
    assert (low, 2.9 < high < 3.0) == (-2.0, True)
    assert quantizer.taken().shape == (64, 5)
    assert quantizer.taken() is None
