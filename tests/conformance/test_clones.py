"""A model made again from its configuration has first values of its own, until others are given to it."""

from __future__ import annotations

import copy

import keras
import numpy as np
import pytest

import keras_compress as kc
from keras_compress.core.transform import WeightTransform


@pytest.fixture(autouse=True)
def quiet(recwarn):
    yield
    recwarn.clear()  # that schedules have not ended, in strip


def has_first_values(sample) -> bool:
    return sample.cls.initialize is not WeightTransform.initialize


def values(model: keras.Model) -> list[np.ndarray]:
    return [np.array(v) for v in model.variables]


def assert_equal(made: keras.Model, other: keras.Model) -> None:
    for new, old in zip(values(made), values(other), strict=True):
        np.testing.assert_array_equal(new, old)


def test_first_values_come_from_the_clones_own_weights(transform, bench) -> None:
    if not has_first_values(transform):
        return
    original = bench.with_transforms(transform)
    clone = keras.models.clone_model(original)
    outputs = np.array(clone(bench.x))
    kernel = bench.wrapper(clone).latent("kernel")
    # As if the clone's weights had been wrapped in the first place.
    plain = bench.plain()
    plain.layers[0].kernel.assign(kernel)
    wrapped = kc.graph.model.add_transforms(plain, lambda *_: [transform.make()], {}, filters="d")
    expected, found = bench.wrapper(wrapped), bench.wrapper(clone)
    for new, old in zip(found.transform_list[0].variables, expected.transform_list[0].variables, strict=True):
        np.testing.assert_array_equal(np.array(new), np.array(old))
    np.testing.assert_array_equal(np.array(found.weight("kernel")), np.array(expected.weight("kernel")))
    assert np.abs(outputs).max() > 0


def test_given_values_stay(first_transform, bench, tmp_path) -> None:
    if not has_first_values(first_transform):
        return
    original = bench.with_transforms(first_transform)
    given = keras.models.clone_model(original)
    given.set_weights(original.get_weights())
    again = type(original).from_config(original.get_config())
    original.save_weights(tmp_path / "w.weights.h5")
    again.load_weights(tmp_path / "w.weights.h5")
    for made in (given, again, copy.deepcopy(original)):
        np.testing.assert_array_equal(np.array(made(bench.x)), np.array(original(bench.x)))
        assert_equal(made, original)


def test_a_clone_that_was_never_called_saves_strips_and_takes_more(first_transform, bench, tmp_path) -> None:
    if not has_first_values(first_transform):
        return
    clone = keras.models.clone_model(bench.with_transforms(first_transform))
    clone.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(np.array(clone(bench.x)), np.array(loaded(bench.x)))
    fresh = keras.models.clone_model(clone)
    kernel = np.array(kc.strip(fresh).layers[0].kernel)
    assert np.abs(kernel).max() > 0
    np.testing.assert_array_equal(kernel, np.array(bench.wrapper(fresh).weight("kernel")))


def test_a_step_of_one_is_no_first_value(bench) -> None:
    """Copies and files keep what happens to look like a variable just made."""
    model = kc.quantize_model(bench.plain(), weights="lsq", activations=None)
    bench.wrapper(model).transform_list[0].set_step(np.ones((1, 1), np.float32))
    again = kc.quantize_model(model, weights=None, activations="int8")
    assert np.array(bench.wrapper(again).transform_list[0].step).tolist() == [[1.0]]
    assert np.array(bench.wrapper(copy.deepcopy(model)).transform_list[0].step).tolist() == [[1.0]]
