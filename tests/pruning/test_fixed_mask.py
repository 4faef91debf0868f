from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import keras_compress as kc
from keras_compress.core.wrapper import Compressed


@pytest.fixture(scope="module")
def model() -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="d"), layers.Dense(1, name="e")])
    model.layers[0].kernel.assign([[1.0, 0.0], [0.0, -2.0], [3.0, 4.0]])
    return model


def test_zeros_stay_and_the_others_learn(model) -> None:
    pruned = kc.prune(model, kc.FixedMaskPruner(), filters="d")
    pruned.compile(keras.optimizers.SGD(0.1), "mse")
    before = np.array(pruned.layers[0].weight("kernel"))
    pruned.fit(np.ones((4, 3)), np.ones((4, 1)), epochs=2, verbose=0)
    after = np.array(pruned.layers[0].weight("kernel"))
    assert ((after == 0) == [[False, True], [True, False], [False, False]]).all()
    assert (np.abs(after - before) > 0).sum() == 4
    pruner = pruned.layers[0].transform_list[0]
    assert (pruner.sparsity(), pruner.pending(), pruner.update(before)) == (pytest.approx(2 / 6), None, [])
    # The model that was given is as it was.
    np.testing.assert_array_equal(np.array(model.layers[0].kernel), [[1.0, 0.0], [0.0, -2.0], [3.0, 4.0]])


def test_a_clone_has_the_mask_again(model) -> None:
    pruned = kc.prune(model, kc.FixedMaskPruner(), filters="d")
    clone = keras.models.clone_model(pruned)
    assert isinstance(clone.layers[0], Compressed)
    assert clone.layers[0].transform_list[0].get_config().keys() == {"name", "trainable"}
    clone.set_weights(pruned.get_weights())
    np.testing.assert_array_equal(np.array(clone(np.eye(3))), np.array(pruned(np.eye(3))))


def test_as_a_recipe_writes_it(model) -> None:
    pruned = kc.prune(model, {"class_name": "fixed_mask_pruner"}, filters="d")
    assert pruned.layers[0].transform_list[0].sparsity() == pytest.approx(2 / 6)
    with pytest.raises(ValueError, match="Expected the arguments of FixedMaskPruner"):
        kc.prune(model, {"class_name": "FixedMaskPruner", "config": {"regrow": 1, "schedule": None}})
