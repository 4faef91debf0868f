"""Pruners whose zeros are trained: nothing stops them at the last weight, and it is said."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tests_pruning as t

import keras_compress as kc

CLOSED = "all of its kernel became zero: what the layer gives does not depend on what it reads"


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
