from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from tests_post_training import outputs, settled

from keras_compress.post_training.record import NotApplicable
from keras_compress.post_training.synthetic_data import synthetic_data


def net() -> keras.Model:
    image = keras.Input((12, 12, 3), name="image")
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.0, name="norm_a")(layers.Conv2D(6, 3, name="a")(image)))
    x = layers.BatchNormalization(momentum=0.0, name="norm_b")(layers.Conv2D(4, 3, name="b")(x))
    return settled(keras.Model(image, layers.Dense(2)(layers.Flatten()(x))))


def mismatch(model: keras.Model, data: np.ndarray) -> float:
    """Mean distance of the statistics before each norm, in moving standard deviations."""
    found = []
    for conv, norm in (("a", "norm_a"), ("b", "norm_b")):
        values = outputs(keras.Model(model.input, model.get_layer(conv).output), data)
        layer = model.get_layer(norm)
        std = np.sqrt(np.asarray(layer.moving_variance))
        found += [np.abs(values.mean(axis=(0, 1, 2)) - np.asarray(layer.moving_mean)) / std]
        found += [np.abs(values.std(axis=(0, 1, 2)) - std) / std]
    return float(np.mean(np.concatenate(found)))


def test_the_statistics_of_the_data_come_near_those_of_training() -> None:
    """Training data of mean 0 and deviation 1 are left out; noise of another scale finds them."""
    model = net()
    scale = np.random.default_rng(0).uniform(-3, 3, size=(64, 12, 12, 3)).astype(np.float32) + 1.0
    data = synthetic_data(model, 32, steps=100)
    assert data.shape == (32, 12, 12, 3)
    assert data.dtype == np.float32
    assert mismatch(model, data) < 0.05 < 0.3 < mismatch(model, scale)


def test_inputs_stay_in_their_range_and_the_seed_decides() -> None:
    model = net()
    data = synthetic_data(model, 4, steps=20, input_range=(0.0, 0.5))
    assert data.min() >= 0.0
    assert data.max() <= 0.5
    np.testing.assert_array_equal(data, synthetic_data(model, 4, steps=20, input_range=(0.0, 0.5)))
    assert np.any(data != synthetic_data(model, 4, steps=20, input_range=(0.0, 0.5), seed=1))


def test_several_inputs_keep_their_structure() -> None:
    first, second = keras.Input((4,), name="first"), keras.Input((3,), name="second")
    x = layers.BatchNormalization()(layers.Concatenate()([layers.Dense(3)(first), second]))
    model = keras.Model({"first": first, "second": second}, layers.Dense(1)(x))
    data = synthetic_data(model, 8, steps=2)
    assert {name: array.shape for name, array in data.items()} == {"first": (8, 4), "second": (8, 3)}


def test_what_gives_no_data_is_refused() -> None:
    image = keras.Input((3,))
    with pytest.raises(NotApplicable, match="Expected a model with BatchNormalizations"):
        synthetic_data(keras.Model(image, layers.Dense(2)(image)))
    numbers = keras.Input((3,), dtype="int32")
    x = layers.BatchNormalization()(layers.Embedding(5, 4)(numbers))
    with pytest.raises(NotApplicable, match="Expected inputs of floats"):
        synthetic_data(keras.Model(numbers, x))
    with pytest.raises(ValueError, match="Expected `samples` >= 2"):
        synthetic_data(net(), samples=1)
