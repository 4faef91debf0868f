from __future__ import annotations

import numpy as np
import pytest
import tests_pruning as t

import keras_compress as kc


def test_sigmoid_and_its_temperature_by_hand() -> None:
    """beta = 200^(t / 4): 1, 3.76, 14.14, 53.18, 200."""
    pruner = kc.ContinuousSparsificationPruner(4, strength=0.5, rate=2.0)
    wrapper = t.wrapped([[2.0, -1.0]], pruner)
    pruner.set_s([[0.1, -0.05]])
    temperatures = [float(pruner.temperature(step)) for step in (0, 1, 2, 3, 4, 9)]
    np.testing.assert_allclose(temperatures, [1.0, 3.7606, 14.14214, 53.18296, 200.0, 200.0], rtol=1e-5)
    t.train(wrapper, 2)
    # The third step: t = 2. sigmoid(1.414214) = 0.80443, sigmoid(-0.707107) = 0.330234.
    weight, of_weight, of_s = t.seen(wrapper, [[1.0, 3.0]], [pruner.trained])
    np.testing.assert_allclose(weight, [[1.608859, -0.330234]], rtol=1e-4)
    np.testing.assert_allclose(of_weight, [[0.80443, 3 * 0.330234]], rtol=1e-4)
    np.testing.assert_allclose(of_s, [[4.449754, 3 * -1 * 14.14214 * 0.330234 * 0.669766]], rtol=1e-4)
    assert np.array(wrapper.weight("kernel")).tolist() == [[2.0, 0.0]]
    assert pruner.pending() == "pruning stopped at step 3, before its end_step 4"
    assert pruner.sparsity() == 0.5


def test_penalty_by_hand() -> None:
    pruner = kc.ContinuousSparsificationPruner(4, strength=0.5, rate=2.0)
    wrapper = t.wrapped([[2.0, -1.0]], pruner)
    pruner.set_s([[1.0, -2.0]])
    loss, gradient = t.penalty(wrapper, [pruner.trained])
    p = np.array([0.731059, 0.119203])
    assert loss == pytest.approx(0.5 * p.sum(), rel=1e-5)
    np.testing.assert_allclose(gradient.ravel(), 0.5 * p * (1 - p), rtol=1e-4)
