"""Ranges leave out what is not finite, and count it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_compress as kc
from keras_compress.calibration.calibrate import MeasuredRange, calibrate
from keras_compress.core import registry
from keras_compress.core.ste import finite_extremes

pytestmark = pytest.mark.xla

BAD = [np.inf, -np.inf, np.nan]
GOOD = np.array([-1.0, 0.5, 2.0, 3.0], np.float32)
TRAINED = {
    name: cls
    for name, cls in registry.entries("activation_quantizer").items()
    if issubclass(cls, kc.quantizers.activation.TrainedQuantizer)
}


def test_extremes_have_no_gradient() -> None:
    """A training that runs eagerly makes the gradients of all it calls, and XLA compiles none of a condition."""
    values = tf.Variable(GOOD)
    with tf.GradientTape() as tape:
        low, high, _ = finite_extremes(values)
    assert (float(low), float(high)) == (-1.0, 3.0)
    assert tape.gradient([low, high], values) is None


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("name", TRAINED)
def test_range_is_that_of_the_finite_values(name: str, first: bool) -> None:
    spoilt, clean = TRAINED[name](), TRAINED[name]()
    batches = [np.append(GOOD, BAD).astype(np.float32), 2 * GOOD]
    if not first:
        batches.reverse()
    for batch in batches:
        spoilt(batch, training=True)
        # 0 is what a learned number's first value takes them for; in a range of both signs it changes nothing.
        clean(np.where(np.isfinite(batch), batch, 0), training=True)
    assert all(np.isfinite(np.array(v)).all() for v in spoilt.variables)
    np.testing.assert_allclose([float(e) for e in spoilt.range()], [float(e) for e in clean.range()], rtol=1e-6)
    assert int(spoilt.not_finite) == 1
    assert int(clean.not_finite) == 0
    spoilt.check_range("here")


@pytest.mark.parametrize("name", TRAINED)
def test_a_batch_without_a_finite_value_is_none(name: str) -> None:
    made = TRAINED[name]()
    before = [np.array(v) for v in made.variables if v.name != "not_finite"]
    made(np.full(4, np.nan, np.float32), training=True)
    for old, variable in zip(before, made.variables):
        np.testing.assert_array_equal(np.array(variable), old)
    assert made.trained() == made.known_from_start


@pytest.mark.parametrize("name", TRAINED)
def test_a_gradient_that_is_not_finite_moves_no_number(name: str) -> None:
    made = TRAINED[name]()
    made(GOOD, training=True)
    if not made.trainable_variables:
        return
    with tf.GradientTape() as tape:
        y = made(GOOD * 4, training=True) * np.float32(np.nan)
    assert all(float(g) == 0.0 for g in tape.gradient(y, [v.value for v in made.trainable_variables]))


def test_summary_counts_and_freezing_refuses_by_name() -> None:
    inputs = keras.Input((4,), name="values")
    model = kc.quantize_model(keras.Model(inputs, layers.Dense(2, name="last")(inputs)))
    x = np.ones((3, 4), np.float32)
    for batch in (x, np.where(np.eye(3, 4) > 0, np.inf, x).astype(np.float32), x):
        model(batch, training=True)
    notes = kc.summary(model, print_fn=lambda text: None).notes()
    counted = [note for note in notes if note.startswith("Not finite")]
    assert counted == [
        "Not finite: 1 training batches at values_quantized held NaN or infinite values: the range leaves them out."
    ]
    point = model.get_layer("last_quantized")
    point.quantizer.maximum.assign(np.inf)
    for mode in ("int8", "float32"):
        with pytest.raises(ValueError, match=r"Expected a finite range.* Received: .* to inf at 'last_quantized'"):
            kc.convert(model, mode=mode)
    with pytest.raises(ValueError, match="Expected a finite `scale` > 0"):
        kc.FixedGrid(np.inf, 0)


def test_files_of_earlier_versions_load(tmp_path) -> None:
    """They have no count."""
    made = kc.MovingAverageRange()
    made(GOOD, training=True)
    store = {str(i): np.array(v) for i, v in enumerate(made.variables) if v.name != "not_finite"}
    again = kc.MovingAverageRange()
    again.load_own_variables(store)
    assert [float(e) for e in again.range()] == [float(e) for e in made.range()]


def test_calibration_leaves_them_out_and_says_so() -> None:
    inputs = keras.Input((2,))
    made = MeasuredRange()
    model = keras.Model(inputs, kc.QuantizeActivation(made, name="logs")(keras.ops.log(inputs)))
    with pytest.warns(UserWarning, match="gives values that are NaN or infinite at 'logs': the ranges leave them out"):
        calibrate(model, np.array([[0.0, 1.0], [np.e, 0.0]], np.float32))
    assert [float(e) for e in made.range()] == pytest.approx([0.0, 1.0])
    made._ends = None
    with pytest.raises(ValueError, match=r"Received: NaN or infinite ones only at \['logs'\]"):
        calibrate(model, np.zeros((2, 2), np.float32))
    made.set_range(0.0, np.nan)
    with pytest.raises(ValueError, match="Expected a finite range of activations. Received: 0.0 to nan at 'here'"):
        made.check_range("here")


def test_xnor_scale_leaves_out_a_batch() -> None:
    scale = kc.XnorScale(1, constant=True)
    x = np.ones((1, 2, 2, 3), np.float32)
    for batch in (x, x * np.inf, x):
        scale([np.ones((1, 2, 2, 1), np.float32), batch], training=True)
    assert float(scale.factor()) == pytest.approx(1.0, rel=1e-5)
    assert int(scale.batches) == 2
