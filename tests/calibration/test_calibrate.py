"""Ranges measured on data: exact extremes, whatever the batches, and what is made of them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.calibration import calibrate as calibrating
from keras_compress.core.ste import finite_extremes
from keras_compress.quantizers.activation import MovingAverageRange, QuantizeActivation


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_a_measured_range_gives_the_integers_of_a_trained_one(bits: int) -> None:
    for low, high in [(-1.7, 3.2), (0.0, 5.9), (0.3, 0.4), (-2.0, 0.0), (0.0, 0.0)]:
        measured, trained = calibrating.MeasuredRange(bits), MovingAverageRange(bits)
        assert not measured.trained()
        measured.set_range(low, high)
        trained.set_range(low, high)
        assert measured.trained()
        assert [float(p) for p in measured.parameters()] == [float(p) for p in trained.parameters()]


def test_a_range_that_was_never_set_is_an_error() -> None:
    with pytest.raises(ValueError, match="Received: none at 'edge'"):
        calibrating.MeasuredRange(8, name="edge").parameters()


def pointed() -> keras.Model:
    """Two unknown points around a known one that rounds to whole numbers and ends at 6."""
    inputs = keras.Input((3,))
    known = MovingAverageRange(8)
    known.set_range(0.0, 6.0)
    x = QuantizeActivation(calibrating.MeasuredRange(8), name="first")(inputs)
    x = QuantizeActivation(known, name="known")(x)
    x = keras.layers.Rescaling(10.0)(x)
    return keras.Model(inputs, QuantizeActivation(calibrating.MeasuredRange(8), name="last")(x))


@pytest.mark.parametrize("largest_bytes", [64_000_000, 24, 1])
def test_extremes_do_not_depend_on_the_batches(largest_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrating, "LARGEST_VALUES_BYTES", largest_bytes)
    data = np.array([[0.5, -3.0, 1.0], [2.0, 4.0, 7.5], [-1.0, 0.0, 3.0], [0.25, 0.5, 1.0], [9.0, 8.0, 1.0]], "float32")
    model = pointed()
    assert calibrating.calibrate(model, data) == 5
    assert [float(end) for end in model.get_layer("first").quantizer.range()] == [-3.0, 9.0]
    # The known point clips on the way, as it does on the device.
    assert [float(end) for end in model.get_layer("last").quantizer.range()] == pytest.approx([0.0, 60.0], rel=1e-6)
    assert calibrating.untrained_points(model) == []


@pytest.mark.parametrize("untraced", [0, 2, 100])
def test_ranges_are_those_of_the_values_run_as_they_are_and_traced(untraced: int, monkeypatch) -> None:
    monkeypatch.setattr(calibrating, "PIECES_UNTRACED", untraced)
    monkeypatch.setattr(calibrating, "LARGEST_VALUES_BYTES", 4 * 36 * 4)  # four samples at a time
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 1))
    conv = keras.layers.Conv2D(1, 3, padding="same")
    model = keras.Model(inputs, QuantizeActivation(calibrating.MeasuredRange(8), name="made")(conv(inputs)))
    data = np.random.default_rng(0).normal(size=(30, 6, 6, 1)).astype(np.float32)
    assert calibrating.calibrate(model, data) == 30
    values = np.asarray(conv(data))
    found = [float(end) for end in model.get_layer("made").quantizer.range()]
    assert found == pytest.approx([values.min(), values.max()], rel=1e-5)


@pytest.mark.parametrize(
    "values", [[1.0, -2.0], [np.nan, 3.0, -1.0], [np.inf, 1.0], [-np.inf, np.nan, 0.5], [np.nan, np.inf], [-0.0]]
)
def test_extremes_of_an_array_are_those_of_training(values: list[float]) -> None:
    array = np.array(values, np.float32)
    low, high, whole = finite_extremes(tf.constant(array))
    assert calibrating._of_array(array) == (float(low), float(high), bool(whole))


def test_few_samples_of_large_layers_run_at_once() -> None:
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(500, 3, padding="same")(inputs))
    assert calibrating._batch_size(model) == 64_000_000 // (4 * 8 * 8 * 500)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_data_of_one_value_are_said_with_their_input(value: float) -> None:
    one, two = keras.Input((3,), name="one"), keras.Input((2,), name="two")
    layers = keras.layers
    model = keras.Model([one, two], layers.Dense(2)(layers.Concatenate()([one, two])))
    varied = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    with pytest.warns(UserWarning, match=rf"all values are equal in input 'one' \(all {value:g}\)$"):
        kc.convert(model, representative_dataset=[np.full((8, 3), value, np.float32), varied])


def test_one_batch_that_differs_is_enough(recwarn: pytest.WarningsRecorder) -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    zeros, ones = np.zeros((4, 3), np.float32), np.ones((4, 3), np.float32)
    kc.freeze(model, lambda: iter([zeros, ones]))
    kc.freeze(keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)]), ones[:1, :1])  # one value says nothing
    assert not [str(w.message) for w in recwarn if "equal" in str(w.message)]
