from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from tests_post_training import images, largest_difference, outputs, residual_net

from keras_compress.post_training.record import NotApplicable, record_of
from keras_compress.post_training.split_channels import parts, split_channels


def two(reader: list[list[float]]) -> keras.Model:
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(len(reader), "relu", name="a"), layers.Dense(2, name="b")]
    )
    random = np.random.default_rng(0)
    model.set_weights(
        [random.normal(size=(3, len(reader))), random.normal(size=len(reader)), np.array(reader), np.zeros(2)]
    )
    return model


def test_the_paper_s_split_on_integers() -> None:
    """The outlier 7 of (7, 3, 1) is read twice, as (7 -+ d / 2) / 2, with d = 3.5 / 7 after the split."""
    model = two([[7.0, 2.0], [3.0, 1.0], [1.0, 0.0]])
    made = split_channels(model, ratio=0.3, bits=4)
    assert made.get_layer("a").units == 4
    reader = np.asarray(made.get_layer("b").kernel)
    np.testing.assert_allclose(reader, [[3.375, 0.875], [3.625, 1.125], [3.0, 1.0], [1.0, 0.0]])
    maker = np.asarray(made.get_layer("a").kernel)
    np.testing.assert_array_equal(maker[:, 0], maker[:, 1])
    x = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    np.testing.assert_allclose(outputs(made, x), outputs(model, x), atol=1e-5)


def test_rounded_halves_add_up_to_the_rounded_weight() -> None:
    """The quantization-aware split: round((w - 0.5) / 2) + round((w + 0.5) / 2) = round(w), for weights in steps."""
    factors, offsets = parts(2)
    for weight in np.random.default_rng(0).uniform(-100, 100, 10_000):
        assert sum(np.floor(factors * weight + offsets + 0.5)) == np.floor(weight + 0.5)
    assert [sum(part) for part in parts(5)] == pytest.approx([1.0, 0.0])


def test_a_graph_computes_the_same_with_wider_layers() -> None:
    model = residual_net()
    made = split_channels(model, ratio=0.25, bits=4)
    assert largest_difference(model, made) < 1e-5
    # Two outputs of each channel of the first stand together, so that copies of it could not.
    assert made.get_layer("first").filters == 8
    assert made.get_layer("hidden").units == 8
    assert made.get_layer("logits").units == 5
    # Of the channels that a sum joins, both makers have the copies.
    assert made.get_layer("pointwise").filters == made.get_layer("conv").filters == 10
    for name, known in record_of(made).statistics.items():
        values = outputs(keras.Model(made.input, made.get_layer(name).output), images())
        np.testing.assert_allclose(known.mean, values.mean(axis=(0, 1, 2)), atol=2e-3)


def test_outliers_are_what_is_split() -> None:
    reader = [[1.0, 0.5]] * 20
    reader[7] = [-30.0, 1.0]
    made = split_channels(two(reader), ratio=0.05)
    kernel = np.asarray(made.get_layer("b").kernel)
    assert kernel.shape == (21, 2)
    assert kernel[[7, 8], 0].sum() == pytest.approx(-30.0)
    assert np.abs(kernel).max() == pytest.approx(15.0, rel=0.01)


def test_what_cannot_be_split_is_refused() -> None:
    image = keras.Input((3,))
    with pytest.raises(NotApplicable, match="could be there twice"):
        split_channels(keras.Model(image, layers.Dense(2)(image)))
    with pytest.raises(ValueError, match=r"Expected `ratio` in \(0, 1\] and `bits` from 2 to 8. Received: ratio=0"):
        split_channels(two([[1.0, 1.0]]), ratio=0.0)
