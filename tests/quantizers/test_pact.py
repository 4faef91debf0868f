from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.convert.final_grid import final_grid


def values(x) -> list[float]:
    return np.array(x).ravel().tolist()


def gradients(quantizer, x: list[float]) -> tuple[list[float], float]:
    """Gradient of x, and of alpha, where the gradient 10^i arrives at the output i."""
    inputs = tf.constant(x)
    upstream = tf.constant([10.0**i for i in range(len(x))])
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(quantizer(inputs, training=True) * upstream)
    to_x, to_alpha = tape.gradient(loss, [inputs, quantizer.alpha.value])
    return to_x.numpy().tolist(), float(to_alpha)


def test_two_bits_literal() -> None:
    x = np.array([-1.0, 0.0, 0.4, 0.6, 1.4, 2.6, 3.0, 9.0], np.float32)
    quantizer = kc.Pact(2, alpha=3.0)
    assert values(quantizer(x)) == [0, 0, 0, 1, 1, 3, 3, 3]
    assert values(quantizer(x, training=True)) == [0, 0, 0, 1, 1, 3, 3, 3]


@pytest.mark.parametrize("bits", range(1, 9))
def test_equations_1_and_2(bits: int) -> None:
    alpha, top = 2.7, 2**bits - 1
    x = np.random.default_rng(bits).normal(0, 2, 30_000).astype(np.float32)
    clipped = 0.5 * (np.abs(x) - np.abs(x - alpha) + alpha)
    expected = np.round(clipped * top / alpha) * alpha / top
    found = np.array(kc.Pact(bits, alpha=alpha)(x, training=True))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert len(np.unique(found)) == 2**bits


def test_gradients_of_equation_3() -> None:
    quantizer = kc.Pact(4, alpha=3.0, regularization=0.0)
    to_x, to_alpha = gradients(quantizer, [-1.0, 0.0, 1.3, 2.99, 3.0, 9.0])
    assert to_x == [0, 10, 100, 1000, 0, 0]
    assert to_alpha == 10_000 + 100_000


def test_the_optimizer_moves_alpha_by_its_gradient_and_its_regularizer() -> None:
    layer = kc.QuantizeActivation(kc.Pact(4, alpha=2.0, regularization=0.25))
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    x, y = np.array([[0.0, 0.5, 1.0, 4.0]], np.float32), np.array([[0.0, 0.5, 1.0, 4.0]], np.float32)
    model.fit(x, y, verbose=0)
    # d mse / d alpha = 2 * (2 - 4) / 4, d (0.25 alpha^2) / d alpha = 0.5 * 2
    assert float(layer.quantizer.alpha) == pytest.approx(2.0 - 0.1 * (-1.0 + 1.0))
    model.fit(x, np.array([[0.0, 0.5, 1.0, 2.0]], np.float32), verbose=0)
    assert float(layer.quantizer.alpha) == pytest.approx(2.0 - 0.1 * 1.0)


def test_the_regularizer_counts_once_and_in_training_only() -> None:
    inputs = keras.Input((3,))
    layer = kc.QuantizeActivation(kc.Pact(alpha=3.0, regularization=0.5))
    model = keras.Model(inputs, layer(layer(inputs)))
    x = np.ones((2, 3), np.float32)
    model(x, training=True)
    assert [float(loss) for loss in model.losses] == [4.5]
    model(x)
    assert model.losses == []
    layer.trainable = False
    model(x, training=True)
    assert model.losses == []


def test_an_alpha_below_zero_is_led_back() -> None:
    quantizer = kc.Pact(4, alpha=1.0, regularization=0.0)
    quantizer.alpha.assign(-0.5)
    to_x, to_alpha = gradients(quantizer, [-1.0, 0.0, 1.0])
    assert (to_x, to_alpha) == ([0, 10, 0], 100)
    outputs = np.array(quantizer(np.array([-1.0, 0.0, 1.0], np.float32)))
    assert outputs.tolist() == pytest.approx([0, 0, 1e-6])
    assert float(quantizer.parameters()[0]) == pytest.approx(1e-6 / 15)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_first_batch_sets_the_clip_of_least_squared_error(bits: int) -> None:
    x = np.maximum(np.random.default_rng(0).normal(size=5000), 0).astype(np.float32)
    x[7] = 8.0
    quantizer = kc.Pact(bits)
    quantizer(x, training=True)
    top = 2**bits - 1
    errors = []
    for part in range(1, 33):
        alpha = 8.0 * part / 32
        errors.append(np.square(np.round(np.clip(x, 0, alpha) * top / alpha) * alpha / top - x).sum())
    best = 8.0 * (1 + int(np.argmin(errors))) / 32
    assert float(quantizer.alpha) == pytest.approx(best)
    assert best == {2: 2.0, 4: 4.0, 8: 8.0}[bits]
    quantizer(10 * x, training=True)
    assert float(quantizer.alpha) == pytest.approx(best)
    assert int(quantizer.batches) == 2


def test_in_the_first_batch_alpha_has_a_gradient_of_zero() -> None:
    quantizer = kc.Pact(4, regularization=0.0)
    assert gradients(quantizer, [0.5, 2.0])[1] == 0.0
    assert gradients(quantizer, [0.5, 2.0, 7.0])[1] == 100.0 + 10.0


def test_values_pass_before_the_first_batch_and_a_batch_of_zeros_gives_a_usable_clip() -> None:
    quantizer = kc.Pact(2)
    x = np.array([-1.0, 0.3, 5.0], np.float32)
    with pytest.warns(UserWarning, match="has seen no training batch"):
        np.testing.assert_array_equal(np.array(quantizer(x)), x)
    np.testing.assert_array_equal(np.array(quantizer.unrounded(x)), x)
    quantizer(np.zeros(5, np.float32), training=True)
    assert float(quantizer.alpha) == 1.0
    assert values(quantizer.unrounded(x)) == pytest.approx([0.0, 0.3, 1.0])


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_training_and_inference_round_to_the_same_bits(bits: int) -> None:
    quantizer = kc.Pact(bits)
    x = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    quantizer(x, training=True)
    np.testing.assert_array_equal(np.array(quantizer(x, training=True)), np.array(quantizer(x)))


def test_on_the_device_it_stands_at_the_top_of_int8() -> None:
    grid = final_grid(kc.Pact(4, alpha=3.0), 8)
    assert grid.scale == pytest.approx(0.2)
    assert (grid.zero_point, grid.lowest) == (127 - 15, 127 - 15)


def test_calibration_sets_it_and_summaries_show_it() -> None:
    quantizer = kc.Pact(4)
    quantizer.set_range(-0.5, 4.5)
    assert quantizer.summary_values() == {"alpha": 4.5}
    assert quantizer.trained()
    assert [float(end) for end in quantizer.range()] == pytest.approx([0.0, 4.5])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.0}, "Expected `alpha` > 0, or None. Received: alpha=0.0"),
        ({"regularization": -1.0}, "Expected `regularization` >= 0. Received: regularization=-1.0"),
        ({"bits": 9}, "Received: bits=9"),
        ({"bits": 16}, "Received: bits=16"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kc.Pact(**arguments)
