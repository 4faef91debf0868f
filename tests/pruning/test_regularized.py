from __future__ import annotations

import math

import numpy as np
import pytest
import tests_pruning as t

import keras_compress as kc

ALWAYS = kc.ConstantSparsity(0.75, begin_step=0, frequency=1)


def test_a_drawn_mask_and_the_gradient_of_its_relaxation_by_hand() -> None:
    """theta + ln(u / (1 - u)): -0.3473, 5.1972, -4.3863; temperature 1/2; theta is twice the trained number."""
    pruner = kc.RegularizedPruner(ALWAYS, rate=2.0, temperature=0.5)
    wrapper = t.wrapped([[2.0, -1.0, 1.5]], pruner)
    pruner.trained_scores.assign([[0.25, 1.5, -1.5]])
    t.draws(pruner, [[0.3, 0.9, 0.2]])
    weight, of_weight, of_theta = t.seen(wrapper, [[1.0, 3.0, 1.0]], [pruner.trained_scores])
    assert weight.tolist() == [[0.0, -1.0, 0.0]]
    assert of_weight.tolist() == [[0.0, 3.0, 0.0]]
    np.testing.assert_allclose(of_theta, [[0.888459, 3 * -6.1e-5, 0.000465]], rtol=5e-3)


def test_penalty_by_hand() -> None:
    """p = 0.5, 0.8, 0.2, 0.9: their mean, 0.6, is 0.35 above the quarter that is to stay."""
    pruner = kc.RegularizedPruner(ALWAYS, strength=3.0, rate=2.0)
    wrapper = t.wrapped([[1.0, 1.0, 1.0, 1.0]], pruner)
    p = np.array([0.5, 0.8, 0.2, 0.9])
    pruner.trained_scores.assign([[math.log(x / (1 - x)) / 2.0 for x in p]])
    loss, gradient = t.penalty(wrapper, [pruner.trained_scores])
    assert loss == pytest.approx(3.0 * 0.35**2, rel=1e-5)
    np.testing.assert_allclose(gradient.ravel(), 3.0 * 2 * 0.35 * p * (1 - p) / 4, rtol=1e-4)
    assert pruner.expected_sparsity() == pytest.approx(0.4)
    # Inference keeps the likeliest.
    assert np.array(wrapper.weight("kernel")).tolist() == [[0.0, 0.0, 0.0, 1.0]]


def test_behind_the_end_the_mask_stays_and_nothing_is_drawn() -> None:
    pruner = kc.RegularizedPruner(kc.ConstantSparsity(0.5, 0, 1, 1), initial_probability=0.5)
    wrapper = t.wrapped([[4.0, -3.0, 2.0, 1.0]], pruner)
    t.draws(pruner, [[0.1, 0.1, 0.9, 0.9]])
    assert t.seen(wrapper, np.ones((1, 4)))[0].tolist() == [[0.0, 0.0, 2.0, 1.0]]
    # Of equal scores magnitudes decide. The second step is that of the end.
    weight, of_weight, of_theta = t.seen(wrapper, np.ones((1, 4)), [pruner.trained_scores])
    assert weight.tolist() == [[4.0, -3.0, 0.0, 0.0]]
    assert of_weight.tolist() == [[1.0, 1.0, 0.0, 0.0]]
    assert not of_theta.any()
    assert t.penalty(wrapper, [])[0] == 0.0


def test_before_the_begin_nothing_is_drawn_and_nothing_added() -> None:
    pruner = kc.RegularizedPruner(kc.ConstantSparsity(0.5, begin_step=2, frequency=1), initial_probability=0.5)
    wrapper = t.wrapped([[4.0, -3.0, 2.0, 1.0]], pruner)
    t.draws(pruner, [[0.1, 0.1, 0.9, 0.9]])
    weight, of_weight, of_theta = t.seen(wrapper, np.ones((1, 4)), [pruner.trained_scores])
    assert weight.tolist() == [[4.0, -3.0, 2.0, 1.0]]
    assert of_weight.tolist() == [[1.0, 1.0, 1.0, 1.0]]
    assert not of_theta.any()
    # Nor where the mean of p is off.
    pruner.trained_scores.assign(np.full((1, 4), 0.01))
    loss, of_theta = t.penalty(wrapper, [pruner.trained_scores])
    assert loss == 0.0
    assert not of_theta.any()
    # Step 2 is the first that acts: sigmoid(100 * 0.01) - 1/2 = 0.231059.
    assert t.penalty(wrapper, [pruner.trained_scores])[0] == pytest.approx(100 * 0.231059**2, rel=1e-4)
    assert t.seen(wrapper, np.ones((1, 4)))[0].tolist() == [[0.0, 0.0, 2.0, 1.0]]
