"""WRPN against its equations."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc


@pytest.mark.parametrize(
    ("bits", "integers", "scale"),
    [
        # n = 1: 0.5 is a tie, to even.
        (2, [1, 1, 0, 0, 0, -1, -1], 1.0),
        # n = 7: 7 * 0.5 = 3.5, to 4; 7 * 0.3 = 2.1; 7 * -0.07 = -0.49; 7 * -0.6 = -4.2.
        (4, [7, 7, 4, 2, 0, -4, -7], 1 / 7),
    ],
)
def test_weights_literal(bits: int, integers: list[int], scale: float, prepare) -> None:
    quantizer = kc.WRPN(bits)
    weight = prepare(quantizer, np.array([[2.5, 1.0, 0.5, 0.3, -0.07, -0.6, -1.75]]).T)
    found = quantizer.integer_weight(weight)
    assert found.integers.ravel().tolist() == integers
    assert found.scale.tolist() == [[np.float32(scale)]]
    assert found.bits == bits
    np.testing.assert_allclose(quantizer(weight).numpy().ravel(), np.array(integers) * scale, rtol=1e-6)


def test_weights_have_the_gradient_of_the_clip(prepare, gradients) -> None:
    quantizer = kc.WRPN(3)
    weight = prepare(quantizer, [[1.5, 1.0], [0.2, -0.9], [-1.0, -1.001]])
    assert gradients(quantizer, weight, [[1, 2], [3, 4], [5, 6]])[0].tolist() == [[0, 2], [3, 4], [5, 0]]


def test_the_scale_follows_no_weight(prepare) -> None:
    """Not the largest one, nor its channel: where DoReFa and int8 differ."""
    quantizer = kc.WRPN(4)
    weight = prepare(quantizer, np.full((3, 2), 0.01))
    assert quantizer(weight).numpy().tolist() == [[0.0, 0.0]] * 3


def test_activations_literal() -> None:
    """n = 15: 15 * 0.31 = 4.65, 15 * 0.52 = 7.8; and n = 1."""
    x = np.array([[-0.5, 0.0, 0.31, 0.52, 0.98, 1.0, 7.0]], np.float32)
    found = kc.QuantizeActivation(kc.WRPNActivation(4))(x).numpy()
    np.testing.assert_allclose(found, [[0, 0, 5 / 15, 8 / 15, 1, 1, 1]], rtol=1e-6)
    assert kc.QuantizeActivation(kc.WRPNActivation(1))(x).numpy().tolist() == [[0, 0, 0, 1, 1, 1, 1]]
    values = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(values)
        y = kc.QuantizeActivation(kc.WRPNActivation(4))(values, training=True)
    assert tape.gradient(y, values).numpy().tolist() == [[0, 1, 1, 1, 1, 1, 0]]


def test_names() -> None:
    assert kc.quantizers.model.weight_quantizer("wrpn4").bits == 4
    assert type(kc.quantizers.model.activation_quantizer("wrpn2")) is kc.WRPNActivation
