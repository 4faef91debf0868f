"""Pruners whose zeros are trained: nothing stops them at the last weight, and it is said; weight decay moves them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tests_pruning as t

import keras_compress as kc

CLOSED = "all of its kernel became zero: what the layer gives does not depend on what it reads"
SCHEDULE = kc.ConstantSparsity(0.5, 0, frequency=1)
# As docs/sparse_training.md has them.
NOT_DECAYED = ["log_alpha_over_rate", "log_sigma2", "s_over_rate", "scores"]


def closed(name: str) -> tuple[kc.WeightTransform, Any, Any]:
    """A pruner, what it trains, and a value of it that makes zeros of a weight of ones."""
    if name == "L0Pruner":
        pruner = kc.L0Pruner(rate=1.0)
        return pruner, lambda: pruner.trained, -3.0
    if name == "StrPruner":
        pruner = kc.StrPruner(rate=1.0)
        return pruner, lambda: pruner.trained, 40.0
    if name == "VariationalDropoutPruner":
        pruner = kc.VariationalDropoutPruner()
        return pruner, lambda: pruner.log_sigma2, 4.0
    pruner = kc.ContinuousSparsificationPruner(1)
    return pruner, lambda: pruner.trained, -1.0


@pytest.mark.parametrize(
    "name", ["ContinuousSparsificationPruner", "L0Pruner", "StrPruner", "VariationalDropoutPruner"]
)
def test_a_weight_of_zeros_only_is_said(name: str) -> None:
    pruner, trained, value = closed(name)
    wrapper = t.wrapped(np.ones((2, 2)), pruner)
    model = keras.Sequential([keras.Input((2,)), wrapper])
    t.train(wrapper, 2)
    assert kc.summary(model).pending == ()
    trained().assign(np.full(trained().shape, value))
    assert kc.summary(model).pending == ((wrapper.name, CLOSED),)
    with pytest.warns(UserWarning, match=f"{wrapper.name}: {CLOSED}"):
        assert not np.array(kc.strip(model).layers[0].kernel).any()


def test_weight_decay_can_leave_out_what_decides_on_zeros() -> None:
    pruners = [
        kc.L0Pruner(),
        kc.VariationalDropoutPruner(),
        kc.StrPruner(),
        kc.ContinuousSparsificationPruner(4, initial_s=-1.0),
        kc.MovementPruner(SCHEDULE),
        kc.RegularizedPruner(SCHEDULE),
    ]
    # One for each weight or layer beside the weight itself.
    for pruner in pruners:
        t.wrapped(np.ones((2, 2)), pruner)
    variables = [variable for pruner in pruners for variable in pruner.trainable_variables]
    assert len(variables) == len(pruners)
    for variable in variables:
        variable.assign(tf.ones(variable.shape))
    weight = keras.Variable(np.ones((2, 2)), name="kernel")
    gradients = [tf.zeros(variable.shape) for variable in (weight, *variables)]
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=NOT_DECAYED)
    optimizer.apply(gradients, [weight, *variables])
    assert all((np.array(variable) == 1.0).all() for variable in variables)
    np.testing.assert_allclose(np.array(weight), 0.95)
    keras.optimizers.AdamW(0.1, weight_decay=0.5).apply(gradients, [weight, *variables])
    assert all(np.allclose(np.array(variable), 0.95) for variable in variables)
