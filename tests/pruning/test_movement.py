from __future__ import annotations

import keras
import numpy as np
import tests_pruning as t

import keras_compress as kc


def test_scores_are_the_negative_sum_of_weight_times_gradient() -> None:
    """SGD of rate 0.5 on sum(x w g): w falls by 0.5 g where it is not masked; S = -0.5 sum(w g)."""
    pruner = kc.MovementPruner(kc.ConstantSparsity(0.5, begin_step=1, frequency=1))
    wrapper = t.wrapped([[1.0, -2.0, 3.0, 4.0]], pruner)
    g = np.array([[1.0, 1.0, -1.0, 1.0]], np.float32)
    optimizer = keras.optimizers.SGD(0.5)
    variables = [wrapper.latent("kernel"), pruner.trained_scores]
    gradients = t.seen(wrapper, g, [pruner.trained_scores])[1:]
    np.testing.assert_array_equal(gradients[1], [[1.0, -2.0, -3.0, 4.0]])
    optimizer.apply(gradients, variables)
    assert np.array(variables[0]).tolist() == [[0.5, -2.5, 3.5, 3.5]]
    assert np.array(variables[1]).tolist() == [[-0.5, 1.0, 1.5, -2.0]]
    # What moved towards zero goes, large as it is, and is still scored.
    weight, of_weight, of_scores = t.seen(wrapper, g, [pruner.trained_scores])
    assert weight.tolist() == [[0.0, -2.5, 3.5, 0.0]]
    assert of_weight.tolist() == [[0.0, 1.0, -1.0, 0.0]]
    assert of_scores.tolist() == [[0.5, -2.5, -3.5, 3.5]]


def test_what_is_out_comes_back_until_the_end() -> None:
    pruner = kc.MovementPruner(kc.ConstantSparsity(0.5, 0, 1, 1))
    wrapper = t.wrapped([[4.0, 3.0, 2.0, 1.0]], pruner)
    masks = []
    for scores in ([0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0]):
        pruner.trained_scores.assign([scores])
        t.train(wrapper)
        masks.append(np.array(pruner.mask).astype(int).ravel().tolist())
    assert masks == [[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


def test_magnitudes_decide_between_equal_scores_alone() -> None:
    """However small scores are: a gradient of 1e-6 and a rate of 1e-3 move them by 1e-9."""
    pruner = kc.MovementPruner(kc.ConstantSparsity(0.5, 0, frequency=1))
    wrapper = t.wrapped([[0.1, 0.2, 0.3, 0.4]], pruner)
    pruner.trained_scores.assign([[2e-9, -2e-9, 0.0, 0.0]])
    t.train(wrapper)
    assert np.array(pruner.mask).astype(int).tolist() == [[1, 0, 0, 1]]
    # The same in a model, whose masks are made together.
    inputs = keras.Input((1,))
    keras.Model(inputs, wrapper(inputs))(np.zeros((1, 1), np.float32), training=True)
    assert np.array(pruner.mask).astype(int).tolist() == [[1, 0, 0, 1]]
