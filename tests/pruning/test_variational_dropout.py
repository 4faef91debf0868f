from __future__ import annotations

import math

import numpy as np
import pytest
import tests_pruning as t

import keras_compress as kc

WEIGHT = [[0.5, -0.1], [0.02, 1.0]]
LOG_SIGMA2 = [[-2.0, -2.0], [-4.0, -10.0]]
# log(sigma^2 / w^2): -0.61371, 2.60517, 3.82402, -8 (clipped).
KL = [[0.699125, 0.037667], [0.011134, 4.635899]]


def made(**arguments) -> tuple:
    pruner = kc.VariationalDropoutPruner(**arguments)
    wrapper = t.wrapped(WEIGHT, pruner)
    pruner.log_sigma2.assign(LOG_SIGMA2)
    return wrapper, pruner


def test_noise_by_hand() -> None:
    """Quantiles of the normal distribution: of 0.75, 0.67449, of 0.1, -1.281552."""
    wrapper, pruner = made()
    t.draws(pruner, [[0.75, 0.1], [0.5, 0.75]])
    noise = np.array([[math.exp(-1) * 0.67449, math.exp(-1) * -1.281552], [0.0, math.exp(-5) * 0.67449]])
    weight, of_weight, of_log_sigma2 = t.seen(wrapper, [[1.0, 2.0], [1.0, 1.0]], [pruner.log_sigma2])
    np.testing.assert_allclose(weight, WEIGHT + noise, rtol=1e-5)
    np.testing.assert_array_equal(of_weight, [[1.0, 2.0], [1.0, 1.0]])
    np.testing.assert_allclose(of_log_sigma2, 0.5 * noise * [[1.0, 2.0], [1.0, 1.0]], rtol=1e-5, atol=1e-7)


def test_what_the_noise_has_outgrown_is_dropped() -> None:
    wrapper, _ = made()
    assert np.array(wrapper.weight("kernel")).tolist() == [[0.5, np.float32(-0.1)], [0.0, 1.0]]


def kl(weight: float, log_sigma2: float) -> float:
    """Equation 14 with its three constants."""
    alpha = math.exp(log_sigma2) / (weight**2 + 1e-8)
    return 0.63576 - 0.63576 / (1 + math.exp(-(1.87320 + 1.48695 * math.log(alpha)))) + 0.5 * math.log(1 + 1 / alpha)


def test_divergence_by_hand_and_its_gradients_by_differences() -> None:
    wrapper, pruner = made(strength=0.25)
    loss, of_weight, of_log_sigma2 = t.penalty(wrapper, [wrapper.latent("kernel"), pruner.log_sigma2])
    assert loss == pytest.approx(0.25 * np.sum(KL), rel=1e-5)
    for place in ((0, 0), (0, 1), (1, 0)):
        w, s = WEIGHT[place[0]][place[1]], LOG_SIGMA2[place[0]][place[1]]
        by_w = (kl(w + 1e-5, s) - kl(w - 1e-5, s)) / 2e-5
        by_s = (kl(w, s + 1e-5) - kl(w, s - 1e-5)) / 2e-5
        assert of_weight[place] == pytest.approx(0.25 * by_w, rel=1e-3)
        assert of_log_sigma2[place] == pytest.approx(0.25 * by_s, rel=1e-3)
    # Where log alpha is clipped.
    assert (of_weight[1, 1], of_log_sigma2[1, 1]) == (0.0, 0.0)


def test_warm_up() -> None:
    wrapper, pruner = made(strength=1.0, warm_up_steps=2)
    losses = [t.penalty(wrapper, [pruner.log_sigma2])[0] for _ in range(4)]
    np.testing.assert_allclose(losses, np.sum(KL) * np.array([0.0, 0.5, 1.0, 1.0]), rtol=1e-5)
    assert pruner.pending() is None
    fresh, other = made(warm_up_steps=5)
    t.train(fresh)
    assert other.pending() == "pruning stopped at step 1, before the end of its warm-up, 5"
