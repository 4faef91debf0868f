from __future__ import annotations

import numpy as np
import pytest
import tests_pruning as t

import keras_compress as kc


def test_phases() -> None:
    """Dense, compressed from 1, dense from 3 on, compressed for good from 5."""
    pruner = kc.AcDcPruner(kc.AlternatingSparsity(0.5, begin_step=1, end_step=5, frequency=2))
    wrapper = t.wrapped([[4.0, -3.0, 2.0, 1.0]], pruner)
    found = []
    for step in range(7):
        if step == 4:
            # What comes back has learned in the dense phase, and what stayed has shrunk.
            wrapper.latent("kernel").assign([[4.0, 1.0, 3.0, 0.5]])
        weight, gradient = t.seen(wrapper, np.ones((1, 4)))
        found.append((weight.ravel().tolist(), gradient.ravel().tolist()))
    dense, first, last = [1.0] * 4, [1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]
    assert found == [
        ([4.0, -3.0, 2.0, 1.0], dense),
        ([4.0, -3.0, 0.0, 0.0], first),
        ([4.0, -3.0, 0.0, 0.0], first),
        # Decompressed: from zero on.
        ([4.0, -3.0, 0.0, 0.0], dense),
        ([4.0, 1.0, 3.0, 0.5], dense),
        ([4.0, 0.0, 3.0, 0.0], last),
        ([4.0, 0.0, 3.0, 0.0], last),
    ]
    assert pruner.pending() is None


def test_bad_steps() -> None:
    with pytest.raises(ValueError, match="Expected `end_step` after `begin_step`"):
        kc.AlternatingSparsity(0.5, 3, 3)
