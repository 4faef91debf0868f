from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc


def built(kernel: list, **arguments: object) -> tuple[kc.WeightTransform, tf.Tensor]:
    quantizer = kc.TWN(**arguments)
    weight = tf.constant(kernel, tf.float32)
    quantizer.prepare(weight.shape, (1,))
    return quantizer, weight


KERNEL = [[1.0, -8.0], [0.4, 4.0], [-2.0, 0.0], [-0.6, 0.1]]


def test_forward_literal() -> None:
    quantizer, weight = built(KERNEL)
    # Channel 0: mean 1, delta 0.7, kept 1 and -2, alpha 1.5. Channel 1: mean 3.025, delta 2.1175, alpha 6.
    assert quantizer(weight).numpy().tolist() == [[1.5, -6], [0, 6], [-1.5, 0], [0, 0]]
    found = quantizer.integer_weight(weight)
    assert found.integers.tolist() == [[1, -1], [0, 1], [-1, 0], [0, 0]]
    assert (found.scale.tolist(), found.bits, quantizer.number_of_clusters) == ([[1.5, 6.0]], 2, 3)


def test_one_alpha_for_the_tensor_literal() -> None:
    quantizer, weight = built(KERNEL, per_channel=False)
    # Mean 16.1 / 8 = 2.0125, delta 1.40875, kept -8, 4 and -2, alpha 14 / 3.
    alpha = np.float32(14.0 / 3.0)
    np.testing.assert_allclose(quantizer(weight), [[0, -alpha], [0, alpha], [-alpha, 0], [0, 0]], rtol=1e-6)
    assert quantizer.integer_weight(weight).scale.shape == (1, 1)


def test_threshold_is_strict() -> None:
    """Of weights all alike every one is kept: 0.7 of the mean is below them. At |w| = delta it is not."""
    quantizer, weight = built([[-3.0], [3.0]])
    assert quantizer(weight).numpy().tolist() == [[-3], [3]]
    # Mean 10, delta 7 in float32 too.
    quantizer, weight = built([[np.float32(0.7) * np.float32(10.0)], [13.0]])
    assert quantizer.integer_weight(weight).integers.tolist() == [[0], [1]]


def test_close_to_the_best_threshold_on_normal_weights() -> None:
    kernel = np.random.default_rng(0).normal(size=(20_000, 1)).astype(np.float32)
    quantizer, weight = built(kernel)

    def error(delta: float) -> float:
        kept = np.abs(kernel) > delta
        return float(np.square(kernel - np.sign(kernel) * kept * np.abs(kernel)[kept].mean()).mean())

    found = float(np.square(kernel - quantizer(weight)).mean())
    assert found == pytest.approx(error(0.7 * float(np.abs(kernel).mean())), rel=1e-4)
    assert min(error(delta) for delta in np.linspace(0.1, 2.0, 96)) > 0.98 * found


def test_gradient_goes_straight_through() -> None:
    quantizer, weight = built(KERNEL)
    upstream = np.arange(1, 9, dtype=np.float32).reshape(4, 2)
    with tf.GradientTape() as tape:
        tape.watch(weight)
        loss = tf.reduce_sum(quantizer(weight, training=True) * upstream)
    assert tape.gradient(loss, weight).numpy().tolist() == upstream.tolist()


def test_a_channel_of_zeros_stays_zero_with_a_scale() -> None:
    quantizer, weight = built([[0.0, 1.0], [0.0, -3.0]])
    found = quantizer.integer_weight(weight)
    # Mean 2, delta 1.4: only -3 is kept.
    assert (found.integers.tolist(), found.scale.tolist()) == ([[0, 0], [0, -1]], [[3.0, 3.0]])
    assert quantizer(weight).numpy().tolist() == [[0, 0], [0, -3]]
    quantizer, weight = built([[0.0], [0.0]])
    assert quantizer.integer_weight(weight).scale.tolist() == [[1.0]]
    assert quantizer(weight).numpy().tolist() == [[0], [0]]


def test_has_no_argument_for_bits() -> None:
    assert set(kc.TWN().get_config()) == {"name", "trainable", "per_channel"}
    with pytest.raises(TypeError, match="bits"):
        kc.TWN(bits=2)
