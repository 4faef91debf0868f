from __future__ import annotations

import numpy as np
import pytest
import tests_pruning as t

import keras_compress as kc


def test_a_drawn_gate_by_hand() -> None:
    """Equations 10 and 11 with beta 2/3, gamma -0.1, zeta 1.1: sigmoid((ln(0.3 / 0.7) + 0.5) * 1.5) * 1.2 - 0.1 ..."""
    pruner = kc.L0Pruner(rate=2.0)
    wrapper = t.wrapped([[2.0, -1.0], [1.5, 0.8]], pruner)
    pruner.set_log_alpha([[0.5, 3.0], [-3.0, -1.0]])
    t.draws(pruner, [[0.3, 0.9], [0.2, 0.6]])
    weight, of_weight, of_log_alpha = t.seen(wrapper, [[1.0, 2.0], [1.0, 1.0]], [pruner.trained])
    np.testing.assert_allclose(weight, [[0.694314, -1.0], [0.0, 0.199109]], rtol=1e-5)
    np.testing.assert_allclose(of_weight, [[0.347157, 2.0], [0.0, 0.248886]], rtol=1e-5)
    np.testing.assert_allclose(of_log_alpha, [[0.841598, 0.0], [0.0, 0.296942]], rtol=1e-5)


def test_the_gate_of_inference_and_the_expected_norm_by_hand() -> None:
    """Equation 13, and equation 12: sigmoid(log_alpha - 2/3 ln(0.1 / 1.1))."""
    pruner = kc.L0Pruner(0.5)
    wrapper = t.wrapped([[1.0], [1.0], [1.0], [1.0], [1.0]], pruner)
    pruner.set_log_alpha([[-2.5], [-2.39], [0.0], [1.0], [2.5]])
    np.testing.assert_allclose(
        np.array(wrapper.weight("kernel")).ravel(), [0.0, 0.000726, 0.5, 0.77727, 1.0], rtol=2e-3
    )
    loss, gradient = t.penalty(wrapper, [pruner.trained])
    p = np.array([0.288762, 0.311867, 0.831822, 0.930771, 0.983675])
    assert loss == pytest.approx(0.5 * p.sum(), rel=1e-5)
    np.testing.assert_allclose(gradient.ravel(), 0.5 * p * (1 - p), rtol=1e-4)
    assert pruner.summary_values() == {"sparsity": pytest.approx(0.2), "expected_density": pytest.approx(p.mean())}


def test_gates_begin_around_the_drop_rate_and_differ_by_weight_and_seed() -> None:
    kernel = np.random.default_rng(0).normal(size=(50, 40))
    first = [
        t.wrapped(kernel + shift, kc.L0Pruner(seed=seed)).transform_list[0] for shift, seed in ((0, 0), (0, 1), (1, 0))
    ]
    values = [np.array(pruner.log_alpha) for pruner in first]
    # log(0.8) - log(0.2)
    assert values[0].mean() == pytest.approx(1.386294, abs=1e-3)
    assert values[0].std() == pytest.approx(0.01, rel=0.1)
    assert (values[0] != values[1]).any()
    assert (values[0] != values[2]).any()


def test_each_step_draws_other_gates_and_a_resumed_one_the_same() -> None:
    def weights() -> list[np.ndarray]:
        wrapper = t.wrapped(np.ones((8, 8)), kc.L0Pruner(initial_drop_rate=0.5))
        return [t.seen(wrapper, np.ones((8, 8)))[0] for _ in range(2)]

    once, again = weights(), weights()
    np.testing.assert_array_equal(once, again)
    assert (once[0] != once[1]).any()
