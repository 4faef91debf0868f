from __future__ import annotations

import numpy as np
import pytest
import tests_pruning as t

import keras_compress as kc


def test_multiples_of_the_standard_deviation_by_hand() -> None:
    """std(4, -3, 2, -1, 0.5, 0.25) = 2.200458 at step 0; thresholds 0, 1.1002 at step 1 and 2.2005 at step 2."""
    pruner = kc.ThresholdPruner(kc.ConstantSparsity(0.0, 0, 2, 1), 1.0)
    wrapper = t.wrapped([[4.0, -3.0, 2.0, -1.0, 0.5, 0.25]], pruner)
    found = []
    for _ in range(3):
        t.train(wrapper)
        found.append(np.array(pruner.mask).astype(int).ravel().tolist())
    assert pruner.summary_values() == {"sparsity": pytest.approx(4 / 6), "deviation": pytest.approx(2.200458)}
    assert found == [[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]]


def test_one_weight_at_least_stays() -> None:
    wrapper = t.wrapped([[1.0, -2.0]], kc.ThresholdPruner(kc.ConstantSparsity(0.0, frequency=1), 100.0))
    t.train(wrapper)
    assert np.array(wrapper.weight("kernel")).tolist() == [[0.0, -2.0]]
