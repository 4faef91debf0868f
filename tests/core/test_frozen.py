"""A weight as the device stores it, in a Keras model: kept by files and copies."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from keras_compress.core.frozen import FrozenGrid
from keras_compress.core.transform import IntegerWeight
from keras_compress.core.wrapper import Compressed
from keras_compress.graph.model import copy_layer

INTEGERS = np.arange(-6, 6, dtype=np.int8).reshape(4, 3)
SCALE = np.array([[0.5, 0.25, 2.0]], np.float32)
BIAS = IntegerWeight(np.array([7, -40000, 0], np.int32), np.array([0.5, 0.25, 1.0], np.float32), 32)
X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def frozen_dense() -> Compressed:
    layer = keras.layers.Dense(3, name="dense")
    layer.build((None, 4))
    transforms = {"kernel": [FrozenGrid.of(IntegerWeight(INTEGERS, SCALE, 8))], "bias": [FrozenGrid.of(BIAS)]}
    return Compressed(layer, transforms, slots={"kernel": (-1,), "bias": (-1,)})


def expected() -> np.ndarray:
    return X @ (INTEGERS * SCALE) + BIAS.integers * BIAS.scale


def test_the_layer_computes_with_the_integers() -> None:
    np.testing.assert_allclose(np.asarray(frozen_dense()(X)), expected(), rtol=1e-6)


def test_copies_have_the_same_integers() -> None:
    np.testing.assert_allclose(np.asarray(copy_layer(frozen_dense())(X)), expected(), rtol=1e-6)


@pytest.mark.parametrize("whole", [True, False])
def test_files_keep_the_integers(tmp_path: Path, whole: bool) -> None:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, frozen_dense()(inputs))
    if whole:
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
    else:
        model.save_weights(tmp_path / "model.weights.h5")
        loaded = keras.models.clone_model(model)
        loaded.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(loaded.predict(X, verbose=0), expected(), rtol=1e-6)
    kernel, bias = (each.integer_weight() for each in loaded.get_layer("dense").transform_list)
    np.testing.assert_array_equal(kernel.integers, INTEGERS)
    np.testing.assert_array_equal(bias.integers, BIAS.integers)
    assert (kernel.integers.dtype, bias.integers.dtype) == (np.int8, np.int32)


def test_another_weights_integers_are_refused() -> None:
    store = {"0": np.zeros((2, 3), np.int8), "1": SCALE}
    with pytest.raises(ValueError, match=r"Expected integers and scale of shapes \[4, 3\] and \[1, 3\]"):
        frozen_dense().transform_list[0].load_own_variables(store)


def test_weights_that_are_set_and_old_files_keep_the_integers(tmp_path: Path) -> None:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, frozen_dense()(inputs))
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_allclose(clone.predict(X, verbose=0), expected(), rtol=1e-6)
    model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5")
    np.testing.assert_allclose(loaded.predict(X, verbose=0), expected(), rtol=1e-6)
