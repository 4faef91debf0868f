"""Groups of pruners that are ranked together, when models meet that were pruned apart."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from tests_training import array, fit, pruners

import keras_compress as kc


def tower(seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(10), keras.layers.Dense(4)], name="tower")


def pruned(model: keras.Model, sparsity: float) -> keras.Model:
    return kc.prune_low_magnitude(model, kc.ConstantSparsity(sparsity, 0), scope="global")


def zeros(model: keras.Model) -> float:
    return 1.0 - np.concatenate([array(p.mask).ravel() for p in pruners(model)]).mean()


@pytest.mark.parametrize("same", [False, True], ids=["other weights", "same weights"])
def test_models_pruned_apart_have_thresholds_of_their_own_in_one_model(same: bool, tmp_path) -> None:
    first, second = pruned(tower(0), 0.5), pruned(tower(0 if same else 1), 0.8)
    first.save(tmp_path / "first.keras")
    second.save(tmp_path / "second.keras")
    # As if each had been made in a session of its own.
    first, second = (keras.models.load_model(tmp_path / f"{name}.keras") for name in ("first", "second"))
    first.name, second.name = "one", "two"
    inputs = keras.Input((6,))
    outer = fit(keras.Model(inputs, keras.layers.Add()([first(inputs), second(inputs)])), epochs=1)
    assert (zeros(first), zeros(second)) == (0.5, 0.8)
    assert zeros(outer) == 0.65


def test_sessions_of_their_own_name_groups_apart_and_the_same_program_alike() -> None:
    names = []
    for seed in (0, 1, 0):
        keras.utils.clear_session(free_memory=False)
        names.append({p.group for p in pruners(pruned(tower(seed), 0.5))})
    assert [len(name) for name in names] == [1, 1, 1]
    assert names[0] == names[2] != names[1]
