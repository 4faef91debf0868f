from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_compress.core.affine import QuantSpec
from keras_compress.core.ste import fake_quantize_range, straight_through, value_of

pytestmark = pytest.mark.xla

ACTIVATION_INT8 = QuantSpec(bits=8, symmetric=False, narrow_range=False)
TWO_BITS = QuantSpec(bits=2, symmetric=False, narrow_range=False)


def test_straight_through_value_and_gradient() -> None:
    x, scale = tf.constant([-1.6, 0.4, 2.5]), tf.constant(2.0)
    with tf.GradientTape() as tape:
        tape.watch([x, scale])
        y = straight_through(lambda v, s: tf.round(v) * s, x, scale)
        loss = tf.reduce_sum(y * [1.0, 10.0, 100.0])
    assert y.numpy().tolist() == [-4.0, 0.0, 4.0]
    to_x, to_scale = tape.gradient(loss, [x, scale])
    assert to_x.numpy().tolist() == [1.0, 10.0, 100.0]
    assert to_scale is None


def run_range(
    values: list[float], low: float, high: float, spec: QuantSpec, learn: bool
) -> tuple[list[float], list[float], float | None, float | None]:
    x, lower, upper = tf.constant(values), tf.Variable(low), tf.Variable(high)
    weights = tf.constant([10.0**i for i in range(len(values))])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = fake_quantize_range(x, lower, upper, spec, learn_range=learn)
        loss = tf.reduce_sum(y * weights)
    grads = tape.gradient(loss, [x, lower, upper])
    return (y.numpy().tolist(), grads[0].numpy().tolist(), *(None if g is None else float(g) for g in grads[1:]))


def test_range_value_and_gradient() -> None:
    # Step 1, integers -2..1, zero point -1.
    y, to_x, to_low, to_high = run_range([-2.0, -1.0, -0.4, 0.6, 2.0, 3.0], -1.0, 2.0, TWO_BITS, False)
    assert y == [-1.0, -1.0, 0.0, 1.0, 2.0, 2.0]
    assert to_x == [0.0, 10.0, 100.0, 1000.0, 10000.0, 0.0]
    assert to_low is None
    assert to_high is None


def test_learned_range_gradients() -> None:
    _, to_x, to_low, to_high = run_range([-2.0, -1.0, -0.4, 0.6, 2.0, 3.0], -1.0, 2.0, TWO_BITS, True)
    assert to_x == [0.0, 10.0, 100.0, 1000.0, 10000.0, 0.0]
    assert to_low == 1.0
    assert to_high == 100000.0


def test_a_range_above_zero_is_widened_in_the_gradient_too() -> None:
    y, to_x, to_low, to_high = run_range([-1.0, 0.5, 1.2, 4.0], 1.0, 3.0, TWO_BITS, True)
    assert y == [0.0, 0.0, 1.0, 3.0]
    assert to_x == [0.0, 10.0, 100.0, 0.0]
    # 0.5 lies under `low` but over 0: nothing is clipped there.
    assert (to_low, to_high) == (1.0, 1000.0)


def test_gradients_equal_tensorflows_fake_quant() -> None:
    """`tf.quantization.fake_quant_with_min_max_vars` on a range whose zero point needs no nudge."""
    x = np.random.default_rng(0).normal(size=500).astype(np.float32)
    upstream = np.random.default_rng(1).normal(size=500).astype(np.float32)

    def gradients(function) -> list[np.ndarray]:
        values, low, high = tf.constant(x), tf.Variable(-1.0), tf.Variable(1.55)
        with tf.GradientTape() as tape:
            tape.watch(values)
            y = function(values, low, high)
            loss = tf.reduce_sum(y * upstream)
        return [y.numpy(), *(g.numpy() for g in tape.gradient(loss, [values, low, high]))]

    ours = gradients(lambda v, a, b: fake_quantize_range(v, a, b, ACTIVATION_INT8, learn_range=True))
    theirs = gradients(lambda v, a, b: tf.quantization.fake_quant_with_min_max_vars(v, a, b, num_bits=8))
    for mine, other in zip(ours, theirs):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("jit", [False, True])
def test_compiled_and_nested_in_another_function(jit: bool) -> None:
    @tf.function(jit_compile=jit)
    def step(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = fake_quantize_range(x, tf.constant(0.0), tf.constant(3.0), TWO_BITS)
        return y, tape.gradient(y, x)

    y, gradient = step(tf.constant([-1.0, 1.4, 5.0]))
    assert y.numpy().tolist() == [0.0, 1.0, 3.0]
    assert gradient.numpy().tolist() == [0.0, 1.0, 0.0]


def test_value_of_is_float32_whatever_the_autocast_scope() -> None:
    variable = keras.Variable(np.float32(1.0009765), dtype="float32")
    with keras.src.backend.AutocastScope("float16"):
        assert variable.value.dtype == tf.float16
        assert value_of(variable).dtype == tf.float32
        assert float(value_of(variable)) == np.float32(1.0009765)
