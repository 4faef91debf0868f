from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_compress as kc
from keras_compress.graph import graph
from keras_compress.post_training.opened import opened
from keras_compress.post_training.reconstruction import brecq
from keras_compress.post_training.record import record_of
from keras_compress.post_training.soft_steps import SoftStep, soft_steps
from keras_compress.post_training.start import with_ranges
from keras_compress.quantizers.activation import MovingAverageRange, QuantizeActivation


def soft(low: float, high: float, bits: int = 2) -> tuple[SoftStep, MovingAverageRange]:
    quantizer = MovingAverageRange(bits)
    quantizer.set_range(low, high)
    return SoftStep(quantizer), quantizer


def test_values_and_gradients_are_those_of_lsq() -> None:
    # Step 0.5, integers 0 to 3 steps; two samples of three values.
    step, _ = soft(0.0, 1.5)
    values = tf.constant([[-0.2, 0.35, 0.6], [0.7, 1.4, 2.0]])
    with tf.GradientTape() as tape:
        tape.watch(values)
        made = step.rounded(values)
        loss = tf.reduce_sum(made * tf.constant([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    of_values, of_step = tape.gradient(loss, [values, step.variable.value])
    np.testing.assert_allclose(made, [[0.0, 0.5, 0.5], [0.5, 1.5, 1.5]])
    np.testing.assert_allclose(of_values, [[0.0, 2.0, 3.0], [4.0, 5.0, 0.0]])
    # round(x / s) - x / s inside, 0 below and 3 above, by 1 / sqrt(N Qp) with N = 3, Qp = 3; and by the first step.
    by_hand = 2 * (1 - 0.7) + 3 * (1 - 1.2) + 4 * (1 - 1.4) + 5 * (3 - 2.8) + 6 * 3
    assert float(of_step) == pytest.approx(0.5 * by_hand / 3.0, rel=1e-5)


def test_zero_keeps_its_integer_and_the_range_is_the_learned_one() -> None:
    # Step 0.5, -1 to 2 steps.
    step, quantizer = soft(-0.5, 1.0)
    zero_point = float(quantizer.parameters()[1])
    step.variable.assign(0.8)
    values = tf.constant([[-3.0, -0.3, 0.0, 0.5, 3.0]])
    learned = step.rounded(values)
    np.testing.assert_allclose(learned, [[-0.4, -0.4, 0.0, 0.4, 0.8]], rtol=1e-6)
    step.settle()
    np.testing.assert_allclose(quantizer.range(), (-0.4, 0.8), rtol=1e-6)
    assert float(quantizer.parameters()[1]) == zero_point
    np.testing.assert_allclose(quantizer(values), learned, rtol=1e-6)


def test_a_share_is_not_rounded_and_has_no_part_in_the_step() -> None:
    step, _ = soft(0.0, 1.5)
    values = tf.fill([100, 100], 0.35)
    with tf.GradientTape() as tape:
        made = step.rounded(values, 0.25, tf.constant([0, 1]))
    kept = float(np.mean(np.isclose(made, 0.35)))
    assert kept == pytest.approx(0.25, abs=0.02)
    assert np.isclose(made, 0.5).sum() == round(1e4 * (1 - kept))
    expected = 0.5 * (1 - 0.7) * 1e4 * (1 - kept) / np.sqrt(100 * 3.0)
    assert float(tape.gradient(made, step.variable.value)) == pytest.approx(expected, rel=1e-4)


def test_points_of_few_bits_within_a_block_learn_theirs(tiny: tuple[keras.Model, np.ndarray]) -> None:
    model, values = tiny
    # Ranges that are too wide by far: smaller steps are better.
    narrow = with_ranges(kc.quantize_model(model, weights="int4", activations="int4"), values[:64], margin=2.0)
    flat = opened(narrow)
    calls = graph.nodes(flat)
    points = [node.operation for node in calls if isinstance(node.operation, QuantizeActivation)]
    assert set(soft_steps(calls, calls)) == {id(point) for point in points if point.quantizer.bits == 4}
    first = next(number for number, node in enumerate(calls) if node.operation.name == "depthwise_relu_quantized")
    assert soft_steps(calls[first : first + 1], calls).keys() == {id(calls[first].operation)}

    def ranges(found: keras.Model) -> dict[str, tuple[float, float]]:
        layers = [layer for layer in found.layers if isinstance(layer, QuantizeActivation)]
        return {layer.name: tuple(float(end) for end in layer.quantizer.range()) for layer in layers}

    made = brecq(narrow, values[:64], steps=60, step_rate=0.02)
    fixed = brecq(narrow, values[:64], steps=60, step_rate=0.0)
    assert ranges(fixed) == ranges(narrow)
    learned, left = (
        next(each.after_db for each in record_of(model).effects if each.layer == "depthwise, pointwise")
        for model in (made, fixed)
    )
    assert learned > left + 3
    shares = {name: ends[1] / ranges(narrow)[name][1] for name, ends in ranges(made).items()}
    moved = {name for name, share in shares.items() if share != 1.0}
    assert {"stem_relu_quantized", "depthwise_relu_quantized"} <= moved
    assert "pool_quantized" not in moved, "8 bits have nothing to gain"
    assert shares["depthwise_relu_quantized"] < 0.7
    # What was reconstructed is what is frozen and what the device has.
    assert kc.verify(kc.convert(made), made, values[:16]).ok
