from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.convert.final_grid import final_grid
from keras_compress.quantizers.kinds import Place


def started(bits: int, step: float, signed: bool = False):
    quantizer = kc.LSQActivation(bits, signed)
    quantizer.set_learned(step)
    return quantizer


def gradients(quantizer, x, upstream) -> tuple[np.ndarray, float]:
    inputs = tf.constant(x, "float32")
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(quantizer(inputs, training=True) * tf.constant(upstream, "float32"))
    to_x, to_relative = tape.gradient(loss, [inputs, quantizer.learned.value])
    # What is trained is the step over its first value, with the gradient of the step divided by that.
    return to_x.numpy(), float(to_relative) * float(quantizer.unit)


def test_literal_values_unsigned_and_signed() -> None:
    x = np.array([-9.0, -1.1, -0.6, 0.0, 0.2, 0.3, 0.9, 9.0], np.float32)
    for training in (False, True):
        unsigned = started(2, 0.5)(x, training=training)
        assert np.array(unsigned).tolist() == [0, 0, 0, 0, 0, 0.5, 1.0, 1.5]
        signed = started(2, 0.5, signed=True)(x, training=training)
        assert np.array(signed).tolist() == [-1, -1, -0.5, 0, 0, 0.5, 0.5, 0.5]


@pytest.mark.parametrize(("bits", "signed", "highest"), [(1, False, 1), (4, False, 15), (2, True, 1), (8, True, 127)])
def test_the_first_batch_sets_the_step(bits: int, signed: bool, highest: int) -> None:
    quantizer = kc.LSQActivation(bits, signed)
    x = np.array([[1.0, -2.0], [0.0, 5.0]], np.float32)
    quantizer(x, training=True)
    assert float(quantizer.step) == pytest.approx(2 * 2.0 / highest**0.5)
    quantizer(9 * x, training=True)
    assert float(quantizer.step) == pytest.approx(4 / highest**0.5)


def test_gradient_of_equation_3_unsigned() -> None:
    """Two bits, step 0.5, two features: x / s = -1, 0, 0.6, 2.8, 3, 18."""
    x = [[-0.5, 0.0], [0.3, 1.4], [1.5, 9.0]]
    upstream = [[1.0, 2.0], [3.0, 5.0], [7.0, 11.0]]
    to_x, to_step = gradients(started(2, 0.5), x, upstream)
    assert to_x.tolist() == [[0, 0], [3, 5], [0, 0]]
    expected = 1 * 0 + 2 * 0 + 3 * (1 - 0.6) + 5 * (3 - 2.8) + 7 * 3 + 11 * 3
    assert to_step == pytest.approx(expected / (2 * 3) ** 0.5, rel=1e-5)


def test_gradient_of_equation_3_signed() -> None:
    """Three bits, step 2, three features: x / s = -4.5, -4, -1.3, 0.25, 2.75, 3."""
    x = [[-9.0, -8.0, -2.6], [0.5, 5.5, 6.0]]
    upstream = [[1.0, 10.0, 100.0], [2.0, 20.0, 200.0]]
    to_x, to_step = gradients(started(3, 2.0, signed=True), x, upstream)
    assert to_x.tolist() == [[0, 0, 100], [2, 20, 0]]
    expected = 1 * -4 + 10 * -4 + 100 * (-1 + 1.3) + 2 * (0 - 0.25) + 20 * (3 - 2.75) + 200 * 3
    assert to_step == pytest.approx(expected / (3 * 3) ** 0.5, rel=1e-5)


def test_features_are_the_elements_of_one_sample() -> None:
    """The batch does not change the scale of the gradient; height, width and channels do."""
    x = np.full((5, 2, 3, 4), 100.0)
    upstream = np.zeros_like(x)
    upstream[0, 0, 0, 0] = 1.0
    _, to_step = gradients(started(4, 1.0), x, upstream)
    assert to_step == pytest.approx(15 / (24 * 15) ** 0.5)


def test_a_step_below_zero_is_led_back() -> None:
    quantizer = started(4, 1.0)
    quantizer.learned.assign(-1.0)
    to_x, to_step = gradients(quantizer, [[1.0]], [[1.0]])
    assert to_x.tolist() == [[0]]
    assert to_step == pytest.approx(15 / 15**0.5)
    assert np.array(quantizer(np.array([1.0], np.float32))).tolist() == pytest.approx([15e-6])


@pytest.mark.parametrize(("bits", "signed"), [(1, False), (8, False), (2, True), (7, True)])
def test_training_and_inference_round_to_the_same_bits(bits: int, signed: bool) -> None:
    quantizer = started(bits, 2.1 / 2**bits, signed)
    x = np.random.default_rng(0).normal(size=(200, 100)).astype(np.float32)
    found = np.array(quantizer(x, training=True))
    np.testing.assert_array_equal(found, np.array(quantizer(x)))
    assert len(np.unique(found)) == 2**bits


def test_signed_takes_negative_values_and_unsigned_does_not() -> None:
    assert not kc.LSQActivation(4).stands_at(Place.ANYWHERE)
    assert kc.LSQActivation(4).stands_at(Place.NON_NEGATIVE)
    assert kc.LSQActivation(4, signed=True).stands_at(Place.ANYWHERE)


def test_on_the_device() -> None:
    unsigned, signed = final_grid(started(4, 0.25), 8), final_grid(started(4, 0.25, signed=True), 8)
    assert (unsigned.scale, unsigned.zero_point, unsigned.lowest) == (0.25, 112, 112)
    assert (signed.scale, signed.zero_point, signed.lowest) == (0.25, 120, 112)


def test_calibration_covers_the_range() -> None:
    quantizer = kc.LSQActivation(3, signed=True)
    quantizer.set_range(-8.0, 3.0)
    assert quantizer.summary_values() == {"step": 2.0}
    quantizer = kc.LSQActivation(2)
    quantizer.set_range(0.0, 3.0)
    assert quantizer.summary_values() == {"step": 1.0}
    quantizer.set_range(0.0, 0.0)
    assert quantizer.summary_values() == {"step": 1.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 1, "signed": True}, "Expected `bits` from 2 to 8 where `signed=True`. Received: bits=1"),
        ({"bits": 9}, "Received: bits=9"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kc.LSQActivation(**arguments)
