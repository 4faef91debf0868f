from __future__ import annotations

import numpy as np
import pytest
import tests_pruning as t

import keras_compress as kc


def test_soft_mask_by_hand() -> None:
    """t = (0.4 + 0.3) / 2; m = 1 / (1 + exp((t^2 - w^2) / 0.1))."""
    pruner = kc.PdpPruner(kc.ConstantSparsity(0.5, 0, 1, 1), temperature=0.1)
    wrapper = t.wrapped([[0.5, -0.4, 0.3, 0.1]], pruner)
    weight, gradient = t.seen(wrapper, [[1.0, 1.0, 2.0, 1.0]])
    np.testing.assert_allclose(weight, [[0.390799, -0.237067, 0.125837, 0.024509]], rtol=1e-4)
    np.testing.assert_allclose(gradient, [[1.635112, 1.365188, 2 * 0.857781, 0.282089]], rtol=1e-4)
    assert pruner.summary_values() == {"sparsity": 0.5, "threshold": pytest.approx(0.35)}
    kept = [[0.5, np.float32(-0.4), 0.0, 0.0]]
    assert np.array(wrapper.weight("kernel")).tolist() == kept
    # The second step is that of the end: hard.
    weight, gradient = t.seen(wrapper, np.ones((1, 4)))
    assert weight.tolist() == kept
    assert gradient.tolist() == [[1.0, 1.0, 0.0, 0.0]]


def test_before_it_begins_nothing_is_softened() -> None:
    pruner = kc.PdpPruner(kc.ConstantSparsity(0.5, 5, 9, 1))
    wrapper = t.wrapped([[0.5, -0.4, 0.3, 0.1]], pruner)
    assert t.seen(wrapper, np.ones((1, 4)))[0].tolist() == np.float32([[0.5, -0.4, 0.3, 0.1]]).tolist()
